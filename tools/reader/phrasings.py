"""Phrasings of the notes and of the questions, as texts with one phrasing a line."""

from __future__ import annotations

P = "[{S}'s|my]"

NAMED_STATEMENTS = f"""
{P} {{n}} is called {{v}}.
{P} {{n}} is named {{v}}.
[{{S}} has|I have] a {{n}} called {{v}}.
[{{S}} has|I have] a {{n}} named {{v}}.
[{{S}} has|I have] a {{n}} and its name is {{v}}.
[{{S}}|I] called the {{n}} {{v}}.
[{{S}}|I] named {P} {{n}} {{v}}.
[{{S}}|we] decided to call the {{n}} {{v}}.
the name of {P} {{n}} is {{v}}.
{{v}} is the name of {P} {{n}}.
{P} new {{n}} is called {{v}}.
{P} {{n}} {{v}} is doing fine.
"""
NAMED_QUESTIONS = f"""
What is {P} {{n}} called?
What is {P} {{n}} called?
What is {P} {{n}} named?
What is the name of {P} {{n}}?
What is {P} {{n}}'s name?
What did [{{S}}|I] call the {{n}}?
How is {P} {{n}} called?
"""
PET_EXTRA = """
[{S}|I] got a {n} and named it {v}.
[{S}|I] adopted a {n} called {v}.
[{S}|we] got a {n}, and we named him {v}.
{v}, [{S}'s|my] {n}, is asleep.
[{S} takes|I take] {v} the {n} for a walk.
"""
RELATION_STATEMENTS = f"""
{P} {{n}} is called {{v}}.
{P} {{n}} is {{v}}.
{P} {{n}}'s name is {{v}}.
[{{S}} has|I have] a {{n}} called {{v}}.
[{{S}} has|I have] a {{n}} named {{v}}.
{{v}} is {P} {{n}}.
{P} {{n}} {{v}} came to visit.
{P} {{n}}, {{v}}, sends greetings.
the name of {P} {{n}} is {{v}}.
"""
RELATION_QUESTIONS = f"""
Who is {P} {{n}}?
What is {P} {{n}} called?
What is the name of {P} {{n}}?
What is {P} {{n}}'s name?
"""
EVENT_DAY = f"""
{P} {{n}} is on {{v}}.
[{{S}} has|I have] a {{n}} on {{v}}.
[{{S}} has|I have] the {{n}} on {{v}}.
{P} {{n}} was moved to {{v}}.
the date of {P} {{n}} is {{v}}.
on {{v}} [{{S}} has|I have] a {{n}}.
[{{S}} booked|I booked] the {{n}} for {{v}}.
{P} {{n}} is set for {{v}}.
"""
EVENT_DAY_Q = f"""
When is {P} {{n}}?
When is {P} {{n}}?
On which day is {P} {{n}}?
What day is {P} {{n}}?
When [does {{S}}|do I] have the {{n}}?
"""
EVENT_TIME = f"""
{P} {{n}} is at {{v}}.
[{{S}} has|I have] a {{n}} at {{v}}.
{P} {{n}} starts at {{v}}.
{P} {{n}} begins at {{v}}.
"""
EVENT_TIME_Q = f"""
At what time is {P} {{n}}?
What time is {P} {{n}}?
When does {P} {{n}} start?
What time does {P} {{n}} begin?
"""
FAVOURITE = f"""
{P} favourite {{n}} is {{v}}.
{{v}} is {P} favourite {{n}}.
the {{n}} [{{S}} likes|I like] best is {{v}}.
[{{S}} likes|I like] {{v}} best of all {{n}}s.
{P} favourite {{n}} has always been {{v}}.
"""
FAVOURITE_Q = f"""
What is {P} favourite {{n}}?
Which {{n}} [does {{S}}|do I] like best?
What {{n}} [does {{S}}|do I] like best?
What is the favourite {{n}} of [{{S}}|mine]?
"""
PLACE = f"""
{P} {{n}} is in the {{v}}.
{P} {{n}} are in the {{v}}.
[{{S}} keeps|I keep] the {{n}} in the {{v}}.
[{{S}}|I] left the {{n}} in the {{v}}.
[{{S}}|I] put {P} {{n}} in the {{v}}.
"""
PLACE_Q = f"""
Where is {P} {{n}}?
Where are {P} {{n}}?
Where [does {{S}}|do I] keep the {{n}}?
Where did [{{S}}|I] put the {{n}}?
Where did [{{S}}|I] leave the {{n}}?
"""
OWNED = f"""
{P} {{n}} is {{v}}.
[{{S}} has|I have] {{av}} {{n}}.
[{{S}}|I] painted the {{n}} {{v}}.
"""
OWNED_Q = f"""
What colour is {P} {{n}}?
Which colour is {P} {{n}}?
What is the colour of {P} {{n}}?
"""

SINGLES = """
work;company;employer
[{S} works|I work] at {v}.
[{S} works|I work] at {v} now.
[{S} works|I work] for {v}.
[{S} has|I have] a job at {v}.
[{S} got|I got] a job at {v}.
[{S}|I] started a new job at {v}.
[{S}|I] started at {v} last month.
[{S} is|I am] working at {v} these days.
[{S}'s|my] new job is at {v}.
[{S}'s|my] employer is {v}.
?Where [does {S}|do I] work?
?Where [does {S}|do I] work?
?Which company [does {S}|do I] work for?
?Who [does {S}|do I] work for?
?Who is [{S}'s|my] employer?
?Where is [{S}'s|my] job?
#
job;job
[{S} is|I am] {av}.
[{S} works|I work] as {av}.
[{S}'s|my] job is {v}.
[{S} is|I am] training to be {av}.
[{S}|I] became {av} last year.
[{S} has|I have] been {av} for years.
?What is [{S}'s|my] job?
?What [does {S}|do I] do for a living?
?What [does {S}|do I] work as?
?What is [{S}'s|my] profession?
#
home;town;
[{S} lives|I live] in {v}.
[{S} lives|I live] in {v} now.
[{S}|I] moved to {v}.
[{S}|I] just moved to {v} last month.
[{S}'s|my] home is in {v}.
[{S} has|I have] a flat in {v}.
[{S}|I] found a flat in {v}.
?Where [does {S}|do I] live?
?Where [does {S}|do I] live?
?In which town [does {S}|do I] live?
?Which city [does {S}|do I] live in?
?Where is [{S}'s|my] home?
#
origin;town;
[{S}|I] grew up in {v}.
[{S} was|I was] born in {v}.
[{S} comes|I come] from {v}.
[{S} is|I am] from {v}.
[{S} is|I am] originally from {v}.
?Where [is {S}|am I] from?
?Where did [{S}|I] grow up?
?Where was [{S}|I] born?
?Where [does {S}|do I] come from?
#
trip;town;
[{S} is|I am] going on holiday to {v}.
[{S} is|I am] going to {v} this summer.
[{S} is|I am] travelling to {v}.
[{S} is|I am] flying to {v} next week.
[{S}'s|my] holiday is in {v}.
[{S}|I] booked a trip to {v}.
[{S} plans|I plan] a trip to {v}.
?Where [is {S}|am I] going on holiday?
?Where [is {S}|am I] travelling to?
?Where [is {S}|am I] flying to?
?Where [is {S}|am I] going this summer?
?Where is [{S}'s|my] holiday?
?Where is [{S}'s|my] trip going?
#
study;subject;
[{S} studies|I study] {v}.
[{S} is|I am] studying {v}.
[{S} has|I have] a degree in {v}.
[{S} teaches|I teach] {v}.
?What [does {S}|do I] study?
?What [is {S}|am I] studying?
?Which subject [does {S}|do I] study?
#
likes;food;
[{S} likes|I like] {v}.
[{S} loves|I love] {v}.
[{S} is|I am] very fond of {v}.
[{S} really likes|I really like] {v}.
[{S} could|I could] eat {v} every day.
?What [does {S}|do I] like?
?What [does {S}|do I] love?
?What [does {S}|do I] like to eat?
#
dislikes;food;
[{S} hates|I hate] {v}.
[{S} dislikes|I dislike] {v}.
[{S} cannot|I cannot] stand {v}.
[{S} never eats|I never eat] {v}.
?What [does {S}|do I] hate?
?What [does {S}|do I] dislike?
?What can [{S}|I] not stand?
?What [does {S}|do I] never eat?
#
allergy;allergen;
[{S} is|I am] allergic to {v}.
[{S} has|I have] an allergy to {v}.
{v} make [{S}|me] sneeze, it is an allergy.
?What [is {S}|am I] allergic to?
?Which allergy [does {S}|do I] have?
?Which food or thing [is {S}|am I] allergic to?
#
fear;creature;
[{S} is|I am] afraid of {v}.
[{S} is|I am] scared of {v}.
?What [is {S}|am I] afraid of?
?What [is {S}|am I] scared of?
#
drinks;drink;
[{S} drinks|I drink] {v} in the morning.
[{S} drinks|I drink] a lot of {v}.
[{S} only drinks|I only drink] {v}.
?What [does {S}|do I] drink?
?What [does {S}|do I] drink in the morning?
#
instrument;instrument;
[{S} plays|I play] the {v}.
[{S} is|I am] learning the {v}.
[{S}|I] started to play the {v}.
[{S}'s|my] instrument is the {v}.
[{S} practises|I practise] the {v} every day.
?Which instrument [does {S}|do I] play?
?What instrument [does {S}|do I] play?
?What is [{S}'s|my] instrument?
#
hobby;hobby;
[{S}'s|my] hobby is {v}.
[{S} enjoys|I enjoy] {v}.
[{S}|I] took up {v}.
[{S}'s|my] new hobby is {v}.
[{S} spends|I spend] every weekend on {v}.
?What is [{S}'s|my] hobby?
?Which hobby [does {S}|do I] have?
?What [does {S}|do I] enjoy?
?What [does {S}|do I] do at the weekend?
#
language;language;
[{S} is|I am] learning {v}.
[{S} speaks|I speak] {v}.
[{S} takes|I take] {v} lessons.
[{S}|I] started to learn {v}.
?Which language [is {S}|am I] learning?
?Which language [does {S}|do I] speak?
?What language [is {S}|am I] learning?
#
collects;collectible;
[{S} collects|I collect] {v}.
[{S} has|I have] a collection of {v}.
?What [does {S}|do I] collect?
#
bought;item;
[{S}|I] bought {av}.
[{S}|I] just bought {av}.
[{S}|I] treated myself to {av}.
?What did [{S}|I] buy?
?What did [{S}|I] just buy?
#
lost;item;
[{S}|I] lost {av}.
[{S}|I] lost {av} on the train.
?What did [{S}|I] lose?
#
age;age;
[{S} is|I am] {v} years old.
[{S} turned|I turned] {v}.
[{S}'s|my] age is {v}.
?How old [is {S}|am I]?
?What is [{S}'s|my] age?
#
birthday;date;
[{S}'s|my] birthday is on {v}.
[{S}'s|my] birthday is {v}.
[{S} has|I have] a birthday on {v}.
?When is [{S}'s|my] birthday?
?What day is [{S}'s|my] birthday?
?On what date is [{S}'s|my] birthday?
#
extension;code;
[{S}'s|my] phone extension is {v}.
[{S}'s|my] extension is {v}.
?What is [{S}'s|my] phone extension?
?What is [{S}'s|my] extension?
#
room;code;
[{S}'s|my] office is room {v}.
[{S} sits|I sit] in room {v}.
?Which room is [{S}'s|my] office?
?In which room [does {S}|do I] sit?
#
password;code;
[{S}'s|my] wifi password is {v}.
the password for [{S}'s|my] wifi is {v}.
?What is [{S}'s|my] wifi password?
#
rent;money;
[{S} pays|I pay] {v} in rent.
[{S}'s|my] rent is {v}.
?How much is [{S}'s|my] rent?
?What [does {S}|do I] pay in rent?
#
school;company;school
[{S} goes|I go] to {v}.
[{S}'s|my] school is {v}.
[{S} studies|I study] at {v}.
?Which school [does {S}|do I] go to?
?Where [does {S}|do I] study?
#
meets;person;
[{S} is|I am] meeting {v} for lunch.
[{S} meets|I meet] {v} on Friday.
[{S} has|I have] a meeting with {v}.
?Who [is {S}|am I] meeting?
?Who [does {S}|do I] meet?
#
lent;person;
[{S}|I] lent a book to {v}.
[{S}|I] gave the keys to {v}.
?Who did [{S}|I] lend the book to?
?Who has [{S}'s|my] keys or book?
#
visit;person;
[{S} is|I am] visiting {v} at the weekend.
[{S}|I] will visit {v} soon.
?Who [is {S}|am I] visiting?
?Who will [{S}|I] visit?
"""

THINGS = """
launch_place;town
{S} launches in {v}.
the launch of {S} is in {v}.
{S} will be launched in {v}.
we launch {S} in {v}.
?Where does {S} launch?
?Where is the launch of {S}?
?In which town does {S} launch?
?Where will {S} be launched?
#
launch_day;day
{S} launches on {v}.
the launch of {S} is on {v}.
we launch {S} on {v}.
?When does {S} launch?
?When is the launch of {S}?
?On which day does {S} launch?
#
lead;person
{S} is led by {v}.
{v} leads {S}.
the lead of {S} is {v}.
{v} is in charge of {S}.
?Who leads {S}?
?Who is in charge of {S}?
?Who is the lead of {S}?
#
client;company
the client for {S} is {v}.
{S} is for {v}.
we build {S} for {v}.
?Who is the client for {S}?
?Who is {S} for?
#
due;day
{S} is due on {v}.
the deadline for {S} is {v}.
{S} has to be ready by {v}.
?When is {S} due?
?What is the deadline for {S}?
?When is the deadline for {S}?
#
budget;money
the budget of {S} is {v}.
{S} has a budget of {v}.
?What is the budget of {S}?
?How big is the budget of {S}?
#
based;town
{S} is based in {v}.
{S} has its office in {v}.
{S} is in {v}.
the office of {S} is in {v}.
?Where is {S} based?
?Where is {S}?
?Where is the office of {S}?
?In which town is {S}?
#
founder;person
{S} was founded by {v}.
{v} founded {S}.
the founder of {S} is {v}.
?Who founded {S}?
?Who is the founder of {S}?
"""

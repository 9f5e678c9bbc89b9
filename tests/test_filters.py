"""Conditions on metadata mean one thing, whichever way they are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core import AllOf, AnyOf, Compare, NoneOf, parse_where
from memos_core.errors import InvalidInput

ROW = {"year": 2021, "lang": "en", "tags": ["tea", "rain"], "title": "On Tea", "nothing": None, "blank": "", "none": []}


@pytest.mark.parametrize(
    ("where", "met"),
    [
        ({}, True),
        ({"year": 2021}, True),
        ({"year": 2020}, False),
        ({"year": {"$gt": 2020, "$lt": 2022}}, True),
        ({"year": {"$gte": 2021, "$lte": 2021}}, True),
        ({"year": {"$ne": 2021}}, False),
        ({"absent": {"$ne": 1}}, True),
        ({"absent": {"$nin": [1]}}, True),
        ({"absent": {"$gt": 1}}, False),
        ({"nothing": {"$ne": 1}}, True),
        ({"lang": ["de", "en"]}, True),
        ({"lang": {"$in": ["de"]}}, False),
        ({"lang": {"$nin": ["de"]}}, True),
        ({"tags": {"$any": ["snow", "rain"]}}, True),
        ({"tags": {"$all": ["snow", "rain"]}}, False),
        ({"tags": {"$all": ["tea", "rain"]}}, True),
        ({"tags": {"$contains": "tea"}}, True),
        ({"tags": {"$eq": ["tea", "rain"]}}, True),
        ({"title": {"$text_match": "Tea"}}, True),
        ({"title": {"$text_match": "tea"}}, False),
        ({"title": {"$text_match_insensitive": "tea"}}, True),
        ({"blank": {"$is_empty": True}, "none": {"$is_empty": True}, "absent": {"$is_empty": True}}, True),
        ({"year": {"$is_empty": True}}, False),
        ({"year": {"$is_empty": False}}, True),
        ({"year": {"$gt": "a"}}, False),
        ({"title": {"$lt": 3}}, False),
        ({"year": {"$contains": 2}}, False),
        ({"$or": [{"year": 1}, {"lang": "en"}]}, True),
        ({"$and": [{"year": 1}, {"lang": "en"}]}, False),
        ({"$not": {"year": 1}}, True),
        ({"$nor": [{"year": 1}, {"lang": "en"}]}, False),
        ({"$or": [{"$and": [{"year": 2021}, {"$not": {"lang": "de"}}]}, {"year": 0}]}, True),
    ],
)
def test_a_condition_is_met_or_not(where, met):
    assert parse_where(where).accepts(ROW) is met


@pytest.mark.parametrize(
    "where",
    [{"$xor": []}, {"a": {"gt": 1}}, {"a": {"$near": 1}}, {"$and": {"a": 1}}, {"a": {"$in": "text"}}, {1: 2}, "a", [1]],
)
def test_a_malformed_condition_says_so(where):
    with pytest.raises(InvalidInput):
        parse_where(where)


def test_nesting_has_an_end():
    where = {"a": 1}
    for _ in range(200):
        where = {"$not": where}
    with pytest.raises(InvalidInput, match="levels deep"):
        parse_where(where)


FIELDS = st.sampled_from(["year", "lang", "tags", "absent"])
VALUES = st.sampled_from([2020, 2021, "en", "tea", None, 2021.0])
LEAVES = st.one_of(
    st.builds(Compare, FIELDS, st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte", "contains", "is_empty"]), VALUES),
    st.builds(Compare, FIELDS, st.sampled_from(["in", "nin", "any", "all"]), st.lists(VALUES, max_size=3)),
)
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple).flatmap(lambda c: st.sampled_from([AllOf(c), AnyOf(c), NoneOf(c)]))
    ),
    max_leaves=8,
)


@given(CONDITIONS)
def test_negation_is_exact(condition):
    assert NoneOf((condition,)).accepts(ROW) is not condition.accepts(ROW)


@given(st.lists(CONDITIONS, max_size=4).map(tuple))
def test_groups_obey_de_morgan(conditions):
    assert AllOf(conditions).accepts(ROW) is not AnyOf(tuple(NoneOf((c,)) for c in conditions)).accepts(ROW)

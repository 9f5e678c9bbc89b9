"""Other forms of memories: gathers what a pathway may use, and commits what it proposes as a derived cube."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from memos_core.cube import (
    ActivationPayload,
    BlobRef,
    Descriptive,
    Governance,
    Header,
    Lineage,
    MemCube,
    MemoryType,
    ParametricPayload,
    Source,
    State,
    canonical_json,
)
from memos_core.engine.base import ActivationStore, BuiltActivation, BuiltAdapter, Engine
from memos_core.errors import BlobDamaged, GateFailed, InvalidInput
from memos_core.events import Event
from memos_core.ids import UlidFactory
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.governance.governance import author_of
from memos_core.infrastructure.vault import MemVault, WriteSession
from memos_core.operation.forms.adapters import MemAdapters, sources_of
from memos_core.operation.forms.adapters import payload_of as payload_of_adapter
from memos_core.operation.forms.fusion import fusible
from memos_core.operation.merging import most_careful
from memos_core.operation.operator import MemOperator, found
from memos_core.operation.scheduler import canonical_order
from memos_core.principal import Principal
from memos_core.records import Turn
from memos_core.transform import CARTRIDGE, BuiltText, Form, Material, Pathway, Peer, Progress, Proposal, pathway

__all__ = ["MemTransform"]

MAX_FOREIGN = 24
"""Other memories of the scope that a training looks at."""
MAX_FOREIGN_CHARS = 400
"""Longer ones are left out: several of them stand in one prompt."""
MAX_PEERS = 3
"""Other adapters of the scope, the newest ones, likewise."""

Blob = BuiltActivation | BuiltAdapter


class MemTransform:
    """Proposes and commits other forms of memories. Thread-safe.

    Args:
        activations: Makes the KV caches that a principal may use, given the memories at hand.
    """

    def __init__(
        self,
        vault: MemVault,
        governance: MemGovernance,
        ids: UlidFactory,
        *,
        activations: Callable[[Principal, Sequence[MemCube]], ActivationStore],
        emit: Callable[[Event], None],
    ) -> None:
        self.vault = vault
        self.governance = governance
        self.ids = ids
        self.activations = activations
        self.emit = emit

    def transform(
        self,
        principal: Principal,
        engine: Engine,
        cube_ids: Sequence[str],
        to: str,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> str:
        """Make another form of these memories together and return the id of the derived cube.

        Raises:
            CubeNotFound: One is not visible.
            GateFailed: What was made is not good enough; the memories stay as they are.
            InvalidInput: There is no such pathway, or the memories changed meanwhile.
        """
        made = self.propose(principal, engine, cube_ids, to, progress=progress)
        return self.commit(principal, made)

    def propose(
        self,
        principal: Principal,
        engine: Engine,
        cube_ids: Sequence[str],
        to: str,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Proposal:
        """Do the long part of ``transform`` and store nothing. What ``progress`` raises ends it."""
        material = self.material(principal, engine, cube_ids)
        self.check_form(principal, engine, material, to)
        if to is MemoryType.PLAINTEXT:
            check_owned(material.cubes)
        if to in (MemoryType.PARAMETRIC, CARTRIDGE):
            material = self.in_company(principal, material)
        if progress is not None:
            material = replace(material, progress=partial(told, progress))
        return self.pathway(material, to).propose(material)

    def pathway(self, material: Material, to: str) -> Pathway:
        """Return the pathway from what ``material`` begins with."""
        if material.fused:
            return pathway(MemoryType.PARAMETRIC, to)
        begins = material.form.cube.type if material.form is not None else MemoryType.PLAINTEXT
        return pathway(begins, to)

    def check_form(self, principal: Principal, engine: Engine, material: Material, to: str) -> None:
        """Raise where what ``material`` begins with may not be used that way, before anything is computed.

        Raises:
            AdapterMismatch: It is an adapter of another model.
            AdapterOutdated: It is an adapter, and a memory that it was made from has changed or gone.
            InvalidInput: Memories were named beside it that the pathway has no use for.
        """
        form = material.form
        if material.fused and to != MemoryType.PARAMETRIC:
            raise InvalidInput("several adapters become one adapter and nothing else")
        if form is None:
            return
        if form.cube.header.descriptive.kind == CARTRIDGE:
            raise InvalidInput(f"memory {form.cube.id} is a cartridge, of which nothing is made: name its memories")
        if to == MemoryType.ACTIVATION and form.cube.type is MemoryType.PARAMETRIC:
            adapters = MemAdapters(self.vault, self.governance)
            usable = adapters.usable(principal, engine.base_fingerprint or "")
            adapters.named(principal, engine, usable, form.cube.id, carries=False)
        elif not {cube.id for cube in material.cubes} <= sources_of(form.cube):
            raise InvalidInput(f"memory {form.cube.id} is {form.cube.type}; name it alone")

    def material(self, principal: Principal, engine: Engine, cube_ids: Sequence[str]) -> Material:
        """Return what a pathway may use: text memories in the order of every prompt, or one memory in another form.

        Raises:
            CubeNotFound: One is not visible.
            InvalidInput: None is named, or one of another form among several; text may stand beside an adapter.
            BlobDamaged: Its tensors are gone.
        """
        if not cube_ids:
            raise InvalidInput("name at least one memory")
        visibility = self.governance.reach(principal)
        with self.vault.read() as session:
            cubes = [found(session.cube(visibility, cube_id), cube_id) for cube_id in dict.fromkeys(cube_ids)]
        texts = [cube for cube in cubes if cube.type is MemoryType.PLAINTEXT]
        other = next((cube for cube in cubes if cube.type is not MemoryType.PLAINTEXT), None)
        if other is None:
            return self.of_text(principal, engine, texts)
        if not texts and len(cubes) > 1 and all(cube.type is MemoryType.PARAMETRIC for cube in cubes):
            return self.of_adapters(principal, engine, cubes)
        if len(cubes) > len(texts) + 1 or (texts and other.type is not MemoryType.PARAMETRIC):
            raise InvalidInput(f"memory {other.id} is {other.type}; name it alone, or plaintext memories together")
        return self.of_form(principal, engine, other, texts)

    def of_text(self, principal: Principal, engine: Engine, cubes: Sequence[MemCube]) -> Material:
        cubes = canonical_order(cubes)
        return Material(engine=engine, cubes=tuple(cubes), activations=self.activations(principal, cubes))

    def of_adapters(self, principal: Principal, engine: Engine, cubes: Sequence[MemCube]) -> Material:
        """Return the memories of several adapters together.

        Raises:
            AdapterMismatch: One is of another model.
            AdapterOutdated: A memory of one has changed or gone.
            InvalidInput: One was brought from outside, or acts on every token.
        """
        adapters = MemAdapters(self.vault, self.governance)
        usable = adapters.usable(principal, engine.base_fingerprint or "")
        for cube in cubes:
            adapters.named(principal, engine, usable, cube.id, carries=False)
            if not fusible(cube):
                raise InvalidInput(f"adapter {cube.id} is frozen, acts on every token or was brought from outside")
        wanted = sorted({cube_id for cube in cubes for cube_id in sources_of(cube)})
        with self.vault.read() as session:
            texts = session.cubes(self.governance.visibility(principal), wanted)
        return replace(self.of_text(principal, engine, texts), fused=tuple(cubes))

    def in_company(self, principal: Principal, material: Material) -> Material:
        """Return ``material`` with other memories and other adapters of the scope, which training must not harm."""
        own = {cube_id for cube_id, _ in material.sources}
        visibility, now = self.governance.visibility(principal), self.governance.clock.now()
        adapters = MemAdapters(self.vault, self.governance)
        made = adapters.usable(principal, material.engine.base_fingerprint or "")
        apart = [cube for cube in made if not sources_of(cube) & own and payload_of_adapter(cube).scope == "tail"]
        with self.vault.read() as session:
            plain = (MemoryType.PLAINTEXT,)
            others = session.listing(visibility, limit=MAX_FOREIGN + len(own), types=plain, now=now)
            known = [session.cubes(visibility, sorted(sources_of(cube))) for cube in apart[-MAX_PEERS:]]
        short = [cube for cube in others if cube.id not in own and len(cube.text) <= MAX_FOREIGN_CHARS]
        peers = tuple(
            Peer(cube.id, adapters.read(principal, cube), payload_of_adapter(cube).peft_config, tuple(cubes))
            for cube, cubes in zip(apart[-MAX_PEERS:], known, strict=True)
        )
        return replace(material, foreign=tuple(short[:MAX_FOREIGN]), peers=peers)

    def of_form(self, principal: Principal, engine: Engine, cube: MemCube, beside: Sequence[MemCube] = ()) -> Material:
        if not isinstance(cube.payload, ActivationPayload | ParametricPayload):
            raise InvalidInput(f"memory {cube.id} has no tensors")
        visibility = self.governance.reach(principal)
        with self.vault.read() as session:
            sources = session.cubes(visibility, [cube_id for cube_id, _ in cube.header.descriptive.lineage.sources])
            namespace = session.namespace(principal.namespace)
        if namespace is None:
            raise BlobDamaged(cube.payload.blob.address, "its namespace is gone")
        data = self.vault.blobs.read(cube.payload.blob.address, namespace.salt)
        standing = [each for each in sources if each.type is MemoryType.PLAINTEXT and each.state is State.ACTIVE]
        return replace(self.of_text(principal, engine, beside or standing), form=Form(cube, data))

    def commit(self, principal: Principal, proposal: Proposal) -> str:
        """Store what a pathway proposes and return the id of its cube; of one that is there already, its id.

        Raises:
            GateFailed: A gate was not passed.
            InvalidInput: A source changed or went meanwhile, or the quota is reached.
        """
        if not proposal.passed:
            raise GateFailed(proposal.pathway, proposal.failures)
        cube_id = self.publish(principal, proposal)
        if cube_id is None:
            what = f"{proposal.pathway} was computed"
            raise InvalidInput(f"the memories changed while {what}, or the quota is reached; try again")
        return cube_id

    def publish(self, principal: Principal, proposal: Proposal) -> str | None:
        """Store a proposal in one transaction; None where a source has changed or gone, or the quota is reached."""
        with self.vault.write() as session:
            return self.store(session, principal, proposal)

    def store(self, session: WriteSession, principal: Principal, proposal: Proposal) -> str | None:
        """``publish`` within a transaction that holds more than that."""
        product = proposal.product
        if isinstance(product, BuiltText):
            return self.store_text(session, principal, proposal, product)
        key = content_key(proposal, product)
        if not self.sources_stand(session, principal, proposal.sources):
            return None
        namespace = session.ensure_namespace(principal.namespace)
        held = session.find_duplicate(principal.namespace, key, self.governance.clock.now())
        if held:
            self.retire(session, principal, proposal, held[0])
            return held[0]
        if self.governance.over_quota(session, principal.namespace, len(product.data)):
            return None
        blob = self.vault.blobs.put(product.data, namespace.salt)
        cube = self.cube(principal, proposal, product, blob)
        author = author_of(principal)
        session.insert(cube, passages=(), dedup_key=key, author=author, reason=proposal.pathway)
        self.retire(session, principal, proposal, cube.id)
        made_from = [cube_id for cube_id, _ in proposal.sources]
        self.governance.audit(session, principal, "transform", [cube.id, *made_from])
        session.afterwards.append(partial(self.tell, principal, cube, made_from, proposal))
        return cube.id

    def retire(self, session: WriteSession, principal: Principal, proposal: Proposal, successor: str) -> None:
        """Archive what the new cube takes the place of; ``archive(cube_id, archived=False)`` brings it back."""
        visibility = self.governance.visibility(principal)
        for cube in session.cubes(visibility, [each for each in proposal.replaces if each != successor]):
            if cube.state is State.ACTIVE and not cube.header.governance.frozen:
                reason = f"{successor} took its place"
                session.set_state(cube.id, State.ARCHIVED, author=author_of(principal), reason=reason)

    def store_text(
        self, session: WriteSession, principal: Principal, proposal: Proposal, product: BuiltText
    ) -> str | None:
        """Store a text that was made from another form; where it says what a live memory says, return that one."""
        if not self.sources_stand(session, principal, proposal.sources):
            return None
        sources = session.cubes(self.governance.reach(principal), [cube_id for cube_id, _ in proposal.sources])
        check_owned(sources)
        careful = most_careful(cube.header.governance.sensitivity for cube in sources)
        turn = Turn(text=product.text, title=product.title, kind=product.kind, sensitivity=careful)
        operator = MemOperator(self.vault, self.governance, self.ids)
        (draft,) = operator.structure(principal, [turn])
        held = session.find_duplicate(principal.namespace, draft.dedup_key, self.governance.clock.now())
        if held:
            return held[0]
        if self.governance.over_quota(session, principal.namespace, len(product.text.encode())):
            return None
        lineage = Lineage(sources=proposal.sources, pathway=proposal.pathway, parameters=proposal.record)
        descriptive = draft.cube.header.descriptive.model_copy(update={"lineage": lineage})
        header = draft.cube.header.model_copy(update={"descriptive": descriptive})
        cube = draft.cube.model_copy(update={"header": header})
        author = author_of(principal)
        session.insert(cube, passages=draft.passages, dedup_key=draft.dedup_key, author=author, reason=proposal.pathway)
        made_from = [cube_id for cube_id, _ in proposal.sources]
        self.governance.audit(session, principal, "transform", [cube.id, *made_from])
        return cube.id

    def tell(self, principal: Principal, cube: MemCube, made_from: Sequence[str], proposal: Proposal) -> None:
        product = proposal.product
        counted = {"tokens": product.token_count} if isinstance(product, BuiltActivation) else {}
        name = "kv.built" if isinstance(product, BuiltActivation) else "adapter.built"
        now = self.governance.clock.now()
        self.emit(Event(name, now, principal.namespace, (cube.id, *made_from), {**proposal.record, **counted}))

    def sources_stand(self, session: WriteSession, principal: Principal, sources: Sequence[tuple[str, int]]) -> bool:
        """Tell whether each source may be read, is active, and is still at the version that was read."""
        visibility = self.governance.reach(principal)
        for cube_id, version in sources:
            cube = session.cube(visibility, cube_id)
            if cube is None or cube.state is not State.ACTIVE or cube.version != version:
                return False
        return True

    def cube(self, principal: Principal, proposal: Proposal, product: Blob, blob: BlobRef) -> MemCube:
        now = self.governance.clock.now()
        lineage = Lineage(sources=proposal.sources, pathway=proposal.pathway, parameters=proposal.record)
        descriptive = Descriptive(
            id=self.ids.new(now),
            type=proposal.target,
            title=title_of(proposal, product),
            kind=kind_of(product),
            created=now,
            updated=now,
            source=Source(session=principal.session),
            lineage=lineage,
        )
        governance = Governance(owner=principal.user, namespace=principal.namespace, agent=principal.agent)
        return MemCube(header=Header(descriptive=descriptive, governance=governance), payload=payload_of(product, blob))


def check_owned(sources: Sequence[MemCube]) -> None:
    """Raise InvalidInput where one belongs to another user: a copy of it in words would outlive the grant."""
    for cube in sources:
        if cube.shared:
            raise InvalidInput(f"memory {cube.id} is shared by {cube.owner}; it is not copied into another scope")


def told(progress: Callable[[int, int], None], far: Progress) -> None:
    """Tell a plain callback how far a pathway is."""
    progress(far.done, far.total)


def content_key(proposal: Proposal, product: Blob) -> str:
    """Return what two products have in common that are the same memory in the same form."""
    if isinstance(product, BuiltActivation):
        parts: list[object] = ["activation", product.fingerprint, product.token_digest, product.codec]
    else:
        # One adapter for each set of versions: training it again, perhaps with another seed, makes no second memory.
        made_from = [list(source) for source in proposal.sources]
        content = made_from or hashlib.sha256(product.data).hexdigest()
        parts = ["parametric", product.fingerprint, product.scope, content]
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def kind_of(product: Blob) -> str:
    if isinstance(product, BuiltActivation):
        return CARTRIDGE if product.codec == CARTRIDGE else "prefix"
    return "adapter"


def title_of(proposal: Proposal, product: Blob) -> str:
    memories = f"{len(proposal.sources)} memories for {product.model}"
    if isinstance(product, BuiltActivation):
        what = "Cartridge" if kind_of(product) == CARTRIDGE else "KV"
        return f"{what} of {memories}, {product.token_count} tokens"
    return f"LoRA of {memories}, rank {product.peft_config.get('r')}"


def payload_of(product: Blob, blob: BlobRef) -> ActivationPayload | ParametricPayload:
    if isinstance(product, BuiltActivation):
        return ActivationPayload(
            blob=blob,
            fingerprint=product.fingerprint,
            token_digest=product.token_digest,
            token_count=product.token_count,
            model=product.model,
            codec=product.codec,
        )
    return ParametricPayload(
        blob=blob,
        fingerprint=product.fingerprint,
        model=product.model,
        peft_config=dict(product.peft_config),
        scope=product.scope,
    )

"""Training of the reader: curriculum, learning rate, checkpoints."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .batches import IGNORED, Batch, BatchMaker, Encoder
from .context import ContextMaker
from .forward import hidden_states, look_loss
from .muon import OrthogonalMomentum
from .names import Inventory
from .tokenizer import save_tokenizer, train_tokenizer

THRESHOLDS = (0.95, 0.95, 0.93, 0.93, 0.95)
"""Running token accuracy at which a stage is left."""

LATEST = (0.10, 0.22, 0.38, 0.60, 1.00)
"""Share of the steps after which it is left all the same."""


@dataclass
class Settings:
    """Settings of a training run.

    Attributes:
        seed: Seed of the weights and of the data.
        steps: Steps in total.
        decay: Steps at the end over which the learning rate falls.
        rate: Highest learning rate.
        theta: Base of the rotary positions.
        guide: Weight of the losses of the two supervised heads.
        budget: Tokens of a batch.
        architecture: ``llama`` or ``gpt_neox``.
        width: Hidden size.
        layers: Number of layers.
        inner: Width of the feed-forward part.
        save_every: Steps between checkpoints.
        spell: Whether half of the invented names are spelled with any tokens.
    """

    seed: int = 7
    steps: int = 9500
    decay: int = 8000
    rate: float = 2e-3
    theta: float = 100000.0
    guide: float = 0.3
    budget: int = 2048
    width: int = 128
    layers: int = 6
    inner: int = 256
    save_every: int = 250
    architecture: str = "llama"
    spell: bool = True


@dataclass
class Progress:
    """Where a run stands: step, stage, running accuracies, whether copying is still trained, seconds and tokens."""

    step: int = 0
    stage: int = 0
    accuracy: float = 0.0
    entered: int = 0
    echo: float = 0.0
    echoes: bool = True
    seconds: float = 0.0
    tokens: int = 0
    history: list[str] = field(default_factory=list)


def build_model(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Makes a model with fresh weights."""
    torch.manual_seed(settings.seed)
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": settings.width,
        "intermediate_size": settings.inner,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.width // 32,
        "max_position_embeddings": 8192,
        "initializer_range": 0.05,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "attn_implementation": "sdpa",
    }
    rope = {"rope_type": "default", "rope_theta": settings.theta}
    if settings.architecture == "gpt_neox":
        return GPTNeoXForCausalLM(
            GPTNeoXConfig(**common, rope_parameters=rope | {"partial_rotary_factor": 1.0}, hidden_act="gelu")
        )
    heads = {"num_key_value_heads": settings.width // 32}
    model = LlamaForCausalLM(LlamaConfig(**common, **heads, rope_parameters=rope))
    prepare_weights(model, settings.seed)
    return model


@torch.no_grad()
def prepare_weights(model: LlamaForCausalLM, seed: int) -> None:
    """Sets the first weights so that attention starts out as matching and copying.

    Queries and keys start nearly equal, so that a token attends to its like; values and outputs start as each other's
    transpose, so that attention copies what it reads; the output matrix starts as the embeddings; two heads of the
    first layer look one and two tokens back. Copying circuits then form within some hundred steps.
    """
    source = torch.Generator().manual_seed(seed)
    size = model.config.hidden_size

    def noise(scale: float, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=source) * scale

    words, common = noise(0.5, model.config.vocab_size, size), noise(0.5, size)
    model.model.embed_tokens.weight.copy_(words + common)
    model.lm_head.weight.copy_(words * 0.2)
    for layer in model.model.layers:
        inner = layer.self_attn
        turn = torch.linalg.qr(noise(1.0, size, size))[0]
        inner.v_proj.weight.copy_(turn)
        inner.o_proj.weight.copy_(turn.T * 0.5)
        match = noise(0.06, size, size)
        inner.q_proj.weight.copy_(match + noise(0.02, size, size))
        inner.k_proj.weight.copy_(match + noise(0.02, size, size))
    look_back(model, common / common.norm(), (1, 2))
    match_previous(model, common / common.norm(), 2)


@torch.no_grad()
def look_back(model: LlamaForCausalLM, common: Tensor, distances: tuple[int, ...]) -> None:
    """Turns heads of the first layer towards the token at a distance.

    Args:
        model: The model.
        common: Direction that all embeddings share.
        distances: Distance of each head, from the first head on.
    """
    inner = model.model.layers[0].self_attn
    half = inner.head_dim // 2
    speeds = model.model.rotary_emb.inv_freq[:6]
    for head, distance in enumerate(distances):
        start = head * inner.head_dim
        inner.q_proj.weight[start : start + 2 * half] *= 0.2
        inner.k_proj.weight[start : start + 2 * half] *= 0.2
        for place, speed in enumerate(speeds.tolist()):
            inner.q_proj.weight[start + place] += 0.8 * math.cos(speed * distance) * common
            inner.q_proj.weight[start + half + place] -= 0.8 * math.sin(speed * distance) * common
            inner.k_proj.weight[start + place] += 0.8 * common


@torch.no_grad()
def match_previous(model: LlamaForCausalLM, common: Tensor, heads: int) -> None:
    """Lets heads of the second layer find the places that follow the current token's like.

    What a backward-looking head of the first layer reads is written to directions of its own; the head of the second
    layer compares the current token with these, on the slowly turning pairs, which hardly depend on the distance.

    Args:
        model: The model.
        common: Direction that all embeddings share.
        heads: Number of heads.
    """
    first, second = (model.model.layers[place].self_attn for place in (0, 1))
    size, half = first.head_dim, first.head_dim // 2
    values = first.v_proj.weight.clone()
    pairs = torch.zeros(size, 1)
    pairs[5:half] = pairs[half + 5 :] = 1.8
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        free = slice((head + 2) * size, (head + 3) * size)
        read = values[own] - (values[own] @ common)[:, None] * common
        first.v_proj.weight[own] = read
        first.o_proj.weight[:, own] = values[free].T
        second.q_proj.weight[own] = read * pairs
        second.k_proj.weight[own] = values[free] * pairs
        second.o_proj.weight[:, own] *= 2


class Optimizers:
    """Orthogonalised momentum for the matrices inside the layers, AdamW for embeddings, output and norms.

    Args:
        model: The model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.names = {id(item): name for name, item in model.named_parameters()}
        inside = [item for name, item in model.named_parameters() if item.ndim == 2 and "layers" in name]
        others = [item for name, item in model.named_parameters() if item.ndim != 2 or "layers" not in name]
        self.parts: tuple[torch.optim.Optimizer, ...] = (
            OrthogonalMomentum(inside, lr=1e-3),
            torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        )

    def step(self, rate: float) -> None:
        """Makes a step at a learning rate and clears the gradients."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Lists the state under names that a checkpoint can hold."""
        return {
            f"optimizer.{key}.{self.names[id(parameter)]}": value.contiguous()
            for part in self.parts
            for parameter, state in part.state.items()
            for key, value in state.items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Takes the state over from a checkpoint."""
        for part in self.parts:
            for parameter in (item for group in part.param_groups for item in group["params"]):
                tail = f".{self.names[id(parameter)]}"
                keys = [name for name in tensors if name.startswith("optimizer.") and name.endswith(tail)]
                part.state[parameter] = {name.split(".")[1]: tensors[name] for name in keys}


def rate_at(step: int, settings: Settings) -> float:
    """Learning rate of a step: a short warm-up, a plateau, a cosine fall."""
    start = settings.steps - settings.decay
    if step < 100:
        return settings.rate * (step + 1) / 100
    if step < start:
        return settings.rate
    share = min(1.0, (step - start) / max(1, settings.decay))
    return settings.rate * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * share)))


GATHER, POINT = (1, 3), (3, 3)
"""Layer and head whose attention is supervised: from a value to the name that it is about, and from an answer to the
place in the notes that it copies (supervised attention: Liu et al., 2016, arXiv:1609.04186)."""


def batch_loss(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the loss over the labelled tokens, which of them are right, and the answer each belongs to."""
    return loss_and_looks(model, batch, {})


def loss_and_looks(
    model: PreTrainedModel, batch: Batch, seen: dict[int, list[Tensor]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes what ``batch_loss`` does, and leaves queries and keys of the layers of ``seen`` there."""
    hidden = hidden_states(model, batch.ids, batch.positions, split=batch.split, mask=batch.mask, seen=seen)
    chosen = batch.labels != IGNORED
    logits = model.get_output_embeddings()(hidden[chosen])
    labels = batch.labels[chosen]
    return functional.cross_entropy(logits, labels), logits.argmax(-1) == labels, batch.answers[chosen]


def supervised_attention(batch: Batch, seen: dict[int, list[Tensor]]) -> Tensor:
    """Computes the losses of the two supervised heads, ``[2]``: gather, point."""
    order = torch.arange(batch.ids.shape[1])
    losses = []
    for (layer, head), looks in ((GATHER, batch.gathers), (POINT, batch.points)):
        if not len(looks.rows):
            losses.append(torch.zeros(()))
            continue
        allowed = order[None, :] <= looks.columns[:, None]
        late = looks.columns >= batch.split
        allowed[late] = batch.mask[looks.rows[late], 0, looks.columns[late] - batch.split]
        query, key = seen[layer]
        losses.append(look_loss(query[:, head], key[:, head], looks, allowed))
    return torch.stack(losses)


def exact_share(right: Tensor, answers: Tensor) -> float:
    """Share of answers all of whose tokens are right."""
    count = int(answers.max()) + 1
    wrong = torch.zeros(count).index_add_(0, answers, (~right).float())
    present = torch.bincount(answers, minlength=count) > 0
    return float((wrong[present] == 0).float().mean())


def letters_of(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Lists the tokens that are lower-case letters, or would be without what marks a word's beginning."""
    bare = {token.removeprefix("\u0120").lower() for token in tokenizer.get_vocab()}
    return sorted(piece for piece in bare if piece.isascii() and piece.isalpha())


class Trainer:
    """Runs the training.

    Args:
        settings: Settings of the run.
        folder: Folder of the checkpoints.
        tokenizer: The reader's tokenizer.
        hold: Stay at the stage that the run begins with.
    """

    def __init__(
        self, settings: Settings, folder: Path, tokenizer: PreTrainedTokenizerBase, *, hold: bool = False
    ) -> None:
        self.hold = hold
        self.settings = settings
        self.folder = folder
        self.tokenizer = tokenizer
        self.model = build_model(settings, tokenizer)
        self.optimizer = Optimizers(self.model)
        self.progress = Progress()
        pieces = letters_of(tokenizer) if settings.spell else []
        maker = ContextMaker(Inventory(pieces=pieces))
        self.batches = BatchMaker(Encoder(tokenizer), maker, len(tokenizer), settings.budget)

    def _stage(self, rng: Random) -> int:
        """Chooses the stage of a batch: mostly the current one, else an earlier one."""
        top = self.progress.stage
        return top if top == 0 or rng.random() < 0.6 else rng.randrange(max(0, top - 3), top)

    def _advance(self, stage: int, accuracy: float) -> None:
        """Keeps the running accuracy of the current stage and moves on where it is good enough."""
        now = self.progress
        if stage != now.stage or self.hold:
            return
        now.accuracy = 0.97 * now.accuracy + 0.03 * accuracy
        if now.stage == len(THRESHOLDS):
            return
        late = now.step > LATEST[now.stage] * self.settings.steps
        if late or now.accuracy > THRESHOLDS[now.stage]:
            now.history.append(f"stage {now.stage} left at step {now.step}, {now.tokens} tokens")
            now.stage, now.accuracy, now.entered = now.stage + 1, 0.0, now.step

    def _step(self) -> str:
        """Makes one training step and returns a line for the log."""
        settings, now = self.settings, self.progress
        rng = Random(f"{settings.seed}-{now.step}")
        stage = self._stage(rng)
        batch = self.batches.chats(rng, stage)
        seen: dict[int, list[Tensor]] = {GATHER[0]: [], POINT[0]: []}
        total, right, answers = loss_and_looks(self.model, batch, seen)
        loss = total.item()
        attention = supervised_attention(batch, seen)
        total = total + settings.guide * attention.sum()
        if now.echoes or now.step % 8 == 0:
            extra = self.batches.echoes(rng, settings.budget if now.echoes else settings.budget // 4)
            echo_loss, echo_right, _ = batch_loss(self.model, extra)
            total = total + echo_loss
            now.echo = 0.9 * now.echo + 0.1 * float(echo_right.float().mean())
            now.echoes = now.echoes and now.echo < 0.9
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step(rate_at(now.step, settings))
        accuracy = float(right.float().mean())
        self._advance(stage, accuracy)
        now.step += 1
        now.tokens += batch.ids.numel()
        return (
            f"step {now.step} stage {stage}/{now.stage} loss {loss:.3f} token {accuracy:.3f} "
            f"exact {exact_share(right, answers):.3f} gather {attention[0]:.2f} point {attention[1]:.2f} "
            f"running {now.accuracy:.3f} echo {now.echo:.2f} "
            f"tokens {now.tokens} shape {tuple(batch.ids.shape)}"
        )

    def run(self) -> None:
        """Trains to the last step."""
        self.model.train()
        while self.progress.step < self.settings.steps:
            started = time.monotonic()
            line = self._step()
            self.progress.seconds += time.monotonic() - started
            if self.progress.step % 25 == 0:
                print(f"{line} seconds {self.progress.seconds:.0f}", flush=True)
            if self.progress.step % self.settings.save_every == 0:
                self.save()
        self.save()

    def save(self) -> None:
        """Writes a checkpoint; the state file comes last, so that a kill leaves the older one readable."""
        target = self.folder / f"step-{self.progress.step:06d}"
        target.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{name}": item.contiguous() for name, item in self.model.state_dict().items()}
        save_file(tensors | self.optimizer.tensors(), target / "state.safetensors")
        (target / "state.json").write_text(
            json.dumps({"settings": asdict(self.settings), "progress": asdict(self.progress)}, indent=1)
        )
        (self.folder / "latest.json").write_text(json.dumps({"checkpoint": target.name}))

    def load(self, checkpoint: Path, stage: int | None = None) -> None:
        """Reads a checkpoint back.

        Args:
            checkpoint: Its folder.
            stage: Begin a new run with its weights at this stage, instead of going on with the old one.
        """
        tensors = load_file(checkpoint / "state.safetensors")
        self.model.load_state_dict(
            {name.removeprefix("model."): item for name, item in tensors.items() if name.startswith("model.")}
        )
        self.optimizer.load(tensors)
        self.progress = Progress(**json.loads((checkpoint / "state.json").read_text())["progress"])
        if stage is not None:
            before = self.progress
            history = [*before.history, f"new run after {before.step} steps, {before.tokens} tokens"]
            self.progress = Progress(0, stage, echoes=False, echo=before.echo, history=history)


def latest_checkpoint(folder: Path) -> Path:
    """Finds the newest checkpoint of a run."""
    return folder / json.loads((folder / "latest.json").read_text())["checkpoint"]


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Writes the model and the tokenizer as transformers loads them."""
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False, max_new_tokens=32
    )
    model.save_pretrained(out)
    save_tokenizer(tokenizer, out)


def prepare_tokenizer(folder: Path, seed: int) -> PreTrainedTokenizerBase:
    """Loads the run's tokenizer, training it first where there is none."""
    target = folder / "tokenizer"
    if not (target / "tokenizer.json").exists():
        save_tokenizer(train_tokenizer(seed), target)
    return AutoTokenizer.from_pretrained(target)

"""LLMSampleScorer: asks the language model about suspicious samples and keeps the hard ones (PAPER.md, section 3)."""

import json
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from llmhd_pl.callbacks.batch_denoiser import ramp_length
from llmhd_pl.callbacks.sample_recorder import SampleRecorder, required
from llmhd_pl.callbacks.variance_pruning import VariancePruning
from llmhd_pl.denoising.rules import FITTING, RULES, Rule, consistent, joint, paper_pairwise, paper_pointwise
from llmhd_pl.denoising.schedules import ramp
from llmhd_pl.denoising.store import CANDIDATE, CLEAN, HARD, NOISE, observed
from llmhd_pl.llm.accounting import Budget, Usage
from llmhd_pl.llm.consistency import SimilarItems
from llmhd_pl.llm.preferences import Preferences
from llmhd_pl.llm.scorer import Scorer

Scored = Literal["candidates", "all"]
_FEW = 20  # of what a share says nothing yet


class LLMSampleScorer(Callback):
    """Rewrites the loss weights of the next epoch: hard candidates are kept, the rest of the noise set is dropped.

    Preferences are summarised when a user is first asked about, from all observed items of the user in train, and kept
    in ``preferences``. In the run's folder ``preferences.jsonl`` says how each came to be, ``judgements.jsonl``,
    written when the fit ends, what was decided of each suspicious observed item in the last epoch.

    Args:
        scorer: the judge; it is held here, not in the LightningModule, because a quantised model must not be moved.
        rule: "paper" (as printed), "consistent" (kept where the observed item fits) or "joint" (loss and score decide
            together which fraction is dropped).
        scored: "candidates", or "all" observed items, for the rule "joint" and a judge that costs almost nothing.
        score_weight: of the score against the loss, in the rule "joint".
        texts: a list of the items' text fields, by item number: ``[{"title": "Dune"}, ...]``; None takes
            ``interactions.items`` of the trainer's data module.

    Raises:
        TypeError: a scorer that is none, or texts that are no list of dicts.
        ValueError: an unknown rule, or all samples scored for a rule that asks about candidates only.
        RuntimeError: ``SampleRecorder`` and ``VariancePruning`` do not stand before it, or no texts are known.
    """

    decides_weights = True
    texts: Sequence[Mapping[str, str]] | None

    def __init__(
        self,
        scorer: Scorer,
        rule: Rule = "joint",
        scored: Scored = "candidates",
        score_weight: float = 1.0,
        texts: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        if rule not in RULES:
            raise ValueError(f"rule is {rule!r}; it must be one of {', '.join(RULES)}.")
        if scored not in get_args(Scored):
            raise ValueError(f"scored is {scored!r}; it must be 'candidates' or 'all'.")
        if scored == "all" and rule != "joint":
            raise ValueError(f"The rule {rule!r} asks about candidates only; scored='all' is for the rule 'joint'.")
        if isinstance(scorer, type) or not hasattr(scorer, "prepare"):
            raise TypeError(f"scorer is {scorer!r}; it must be a scorer's object, such as EncoderScorer().")
        if texts is not None and (isinstance(texts, Mapping) or not all(isinstance(text, Mapping) for text in texts)):
            raise TypeError(
                "texts must be a list with a dict of text fields for each item, in the order of the items' numbers: "
                '[{"title": "Dune"}, ...].'
            )
        self.scorer, self.rule, self.scored, self.score_weight = scorer, rule, scored, score_weight
        self._given_texts = texts
        self._trainer: Trainer | None = None
        self._judged: Tensor | None = None  # the scores that the last epoch was decided by
        self._begin(0)

    def _begin(self, num_samples: int) -> None:
        """Nothing is known yet."""
        self.preferences = Preferences()
        # The last score of each observed pair, whether it is the answer to what would be asked now, and whether either
        # was changed by this process.
        self._scores = torch.full((num_samples,), torch.nan)
        self._asked = torch.zeros(num_samples, dtype=torch.bool)
        self._changed = torch.zeros(num_samples, dtype=torch.bool)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the callbacks before it and the texts."""
        if stage != "fit":
            return
        self._trainer = trainer
        self._recorder = required(trainer, self, SampleRecorder)
        self._pruning = required(trainer, self, VariancePruning)
        self._pruning.decides = False
        self._judged, self._silent = None, False
        self._begin(len(self._recorder.users))
        data: Any = getattr(getattr(trainer, "datamodule", None), "interactions", None)
        self._user_names, self._item_names = (getattr(data, f"{what}_names", None) for what in ("user", "item"))
        self.texts = self._given_texts
        if self.texts is None:
            if not getattr(data, "items", None):
                where = f" ({data.name})" if getattr(data, "name", None) else ""
                raise RuntimeError(
                    "LLMSampleScorer does not know what the items are: the trainer's data module has no item texts. "
                    f"Put an items.jsonl or an .item file beside the interactions{where} (docs/data.md), or give "
                    "LLMSampleScorer(texts=...), a list with a dict of text fields for each item number."
                )
            self.texts = data.items
        assert self.texts is not None
        if len(self.texts) <= (last := int(self._recorder.items.max())):
            raise RuntimeError(
                f"LLMSampleScorer has texts of {len(self.texts)} items, but the interactions name item {last}. Give a "
                "dict for every item number from 0 on, an empty one where nothing is known."
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the scorer take in the catalog; one process after the other, so that the others find it cached."""
        assert self.texts is not None
        users, items = self._recorder.users, self._recorder.items
        pairs = torch.stack([users, items], dim=1)
        if trainer.global_rank == 0:
            self.scorer.prepare(self.texts, pairs)
        trainer.strategy.barrier("prepare the scorer")
        if trainer.global_rank != 0:
            self.scorer.prepare(self.texts, pairs)
        # Samples by user: those of user u are order[first[u]:first[u + 1]].
        self._order = users.argsort(stable=True)
        self._first = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(users).cumsum(0)])
        # Processes agree on log_dir when it is asked for: all must ask, which they do here, and not where files are
        # written, which only those do that have something to write.
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)
        self._titles: dict[int, str] = {}
        self._similar: SimilarItems | None = None
        self.preferences.write(self.path(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask, decide and weight."""
        store = self._recorder.store
        chosen = (store.status == CANDIDATE).cpu()
        positive_wanted, negative_wanted = chosen.unbind(1) if chosen.dim() == 2 else (chosen, chosen)
        # Of a pair of items only the printed rule looks at the sampled one.
        if chosen.dim() == 1 and self.rule != "paper":
            negative_wanted = torch.zeros_like(negative_wanted)
        if self.scored == "all":
            positive_wanted = ~observed(store.losses).isnan().cpu()
        positive = self._score_observed(trainer, pl_module, positive_wanted.nonzero().flatten())
        negative = torch.full_like(positive, torch.nan)
        sampled = negative_wanted.nonzero().flatten()
        pairs = torch.stack([self._recorder.users[sampled], store.negative_item.cpu()[sampled].long()], dim=1)
        negative[sampled] = self._ask(trainer, pairs)
        suspicious = observed(store.status != CLEAN).cpu()
        self._decide(trainer, positive, negative)
        self._report(trainer, pl_module, suspicious, (positive_wanted, positive), (negative_wanted, negative))
        self._judged = positive
        self.preferences.write(self.path(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``judgements.jsonl``."""
        if self._judged is not None:
            self._write_judgements(trainer, self._judged)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write it for a run that is broken off, too."""
        self.on_train_end(trainer, pl_module)

    def _write_judgements(self, trainer: Trainer, scores: Tensor) -> None:
        """Write what was decided of the suspicious observed items in the last epoch, one per line."""
        status = observed(self._recorder.store.status).cpu()
        samples = (status != CLEAN).nonzero().flatten()
        rows = zip(
            *(part[samples].tolist() for part in (self._recorder.users, self._recorder.items, scores, status)),
            samples.tolist(),
            strict=True,
        )
        # What the source calls them, if the data was numbered anew.
        user_ids, item_ids = (
            [f'"{key}": {json.dumps(name)}, ' for name in names or ()]
            for key, names in (("user_id", self._user_names), ("item_id", self._item_names))
        )
        path, epoch = self.path(trainer, "judgements"), self._recorder.store.epoch
        temporary = path.with_name(path.name + ".part")
        with temporary.open("w", encoding="utf-8") as file:
            # Put together by hand: a dict and a call of json for each of many thousands took longer than the selection.
            file.writelines(
                f'{{"epoch": {epoch}, "sample": {sample}, "user": {user}, "item": {item}, '
                f"{user_ids[user] if user_ids else ''}{item_ids[item] if item_ids else ''}"
                f'"title": {self._title_as_json(item)}, "score": {"null" if score != score else round(score, 2)}, '
                f'"kept": {"true" if decision == HARD else "false"}}}\n'
                for user, item, score, decision, sample in rows
            )
        temporary.replace(path)

    def _title_as_json(self, item: int) -> str:
        if item not in self._titles:
            self._titles[item] = json.dumps(self.title(item), ensure_ascii=False)
        return self._titles[item]

    def _score_observed(self, trainer: Trainer, pl_module: LightningModule, samples: Tensor) -> Tensor:
        """Scores of the observed items of these samples, NaN elsewhere: float32 [n]."""
        new = samples[~self._asked[samples]]
        pairs = torch.stack([self._recorder.users[new], self._recorder.items[new]], dim=1)
        scores, last = self._ask(trainer, pairs), self._scores[new]
        again = ~last.isnan() & ~scores.isnan()
        same_side = ((scores >= FITTING) == (last >= FITTING))[again]
        counts = [int(same_side.sum()), int(again.sum()), *self._similar_agreement(new, scores)]
        reduced = self._recorder.reduce(torch.tensor(counts, device=trainer.strategy.root_device))
        agreed, compared, similar_agreed, similar = reduced.tolist()
        self._report_agreement(pl_module, "agreement", agreed, compared, "after revisions {} of {} pairs changed sides")
        of_two = "of two similar items of one user, {} times out of {} only one fits"
        self._report_agreement(pl_module, "similar_agreement", similar_agreed, similar, of_two)
        self._scores[new], self._asked[new], self._changed[new] = scores, True, True
        result = torch.full_like(self._scores, torch.nan)
        result[samples] = self._scores[samples]
        return result

    def _report_agreement(
        self, pl_module: LightningModule, name: str, agreed: int, compared: int, contradiction: str
    ) -> None:
        if compared:
            pl_module.log(f"llm/{name}", agreed / compared)
        if compared >= _FEW and agreed < 0.7 * compared:
            _warn(
                f"the scorer contradicts itself: {contradiction.format(compared - agreed, compared)}. A larger model, "
                "or prompts with more of the items' text, may be steadier."
            )

    def _similar_agreement(self, samples: Tensor, scores: Tensor) -> tuple[int, int]:
        """Of similar items of one user among these samples: how many pairs lie on the same side, and how many are."""
        if not len(samples):
            return 0, 0
        if self._similar is None:
            assert self.texts is not None
            self._similar = SimilarItems(self.texts)
        return self._similar.agreement(self._recorder.users[samples], self._recorder.items[samples], scores, FITTING)

    def _ask(self, trainer: Trainer, pairs: Tensor) -> Tensor:
        self.summarize(trainer, pairs[:, 0].unique().tolist())
        return self.scorer.score(self.preferences.current, pairs) if len(pairs) else torch.empty(0)

    def summarize(self, trainer: Trainer, users: Sequence[int]) -> None:
        """Make the preferences of those of these users who have none."""
        histories = {
            user: self._recorder.items[self._order[self._first[user] : self._first[user + 1]]].tolist()
            for user in users
            if user not in self.preferences.current
        }
        if histories:
            self.preferences.update(self._recorder.store.epoch, "summary", self.scorer.summarize(histories))

    def _decide(self, trainer: Trainer, positive: Tensor, negative: Tensor) -> None:
        """Set status and weights of all samples."""
        store, device = self._recorder.store, self._recorder.store.losses.device
        positive, negative = positive.to(device), negative.to(device)
        pairwise = not store.pointwise
        suspicious = store.status != CLEAN
        if self.rule == "joint":
            agreement = positive if pairwise else torch.stack([positive, -negative], dim=1)
            losses, rate = self._pruning.droppable(trainer)
            dropped = joint(losses, agreement, rate, self.score_weight, self._recorder.reduce)
            store.status.fill_(CLEAN)
            store.status[suspicious] = HARD
            store.status[dropped] = NOISE
        else:
            if self.rule == "consistent":
                hard = consistent(positive, None if pairwise else negative)
            elif pairwise:
                hard = paper_pairwise(positive, negative, self._threshold(trainer, 7.0, 3.0))
            else:
                low, high = self._threshold(trainer, 8.0, 6.0), self._threshold(trainer, 2.0, 4.0)
                hard = paper_pointwise(positive, negative, low, high)
            candidates = store.status == CANDIDATE
            store.status[candidates & ~hard] = NOISE
            store.status[candidates & hard] = HARD
            dropped = store.status == NOISE
        store.weights.copy_(~dropped)

    def _threshold(self, trainer: Trainer, start: float, end: float) -> float:
        return ramp(trainer.global_step, ramp_length(trainer, self._pruning), start, end)

    def _report(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        suspicious: Tensor,
        *asked_and_answered: tuple[Tensor, Tensor],
    ) -> None:
        """Log what was asked, answered and decided, and warn of the known signs of failure."""
        store = self._recorder.store
        answers = torch.cat([scores[wanted] for wanted, scores in asked_and_answered])
        histogram = torch.bincount(answers[~answers.isnan()].round().long(), minlength=11)[1:]
        (_, positive), (negative_wanted, negative) = asked_and_answered
        # A pair of items is judged once, by two answers.
        judged = ~positive.isnan() & ~(negative_wanted & negative.isnan()) if not store.pointwise else ~answers.isnan()
        suspicious_fit = (positive >= FITTING)[suspicious & ~positive.isnan()]
        counts = [
            int(judged.sum()),
            int(suspicious_fit.sum()),
            len(suspicious_fit),
            int((store.status == HARD).sum()),
            int((store.status == NOISE).sum()),
            len(answers),
            int(answers.isnan().sum()),
            *histogram.tolist(),
        ]
        judged_in_all, fitting, suspicious_in_all, hard, dropped, asked, unanswered, *levels = self._recorder.reduce(
            torch.tensor(counts, device=trainer.strategy.root_device)
        ).tolist()
        pl_module.log("denoise/hard", float(hard))
        pl_module.log("denoise/dropped", float(dropped))
        pl_module.log("llm/pairs", float(asked))
        pl_module.log("llm/unanswered", float(unanswered))
        for level, count in enumerate(levels, 1):
            pl_module.log(f"llm/score_{level}", float(count))
        usage = getattr(self.scorer, "usage", None)
        if usage is not None:
            total = torch.tensor([usage.tokens, usage.calls], device=trainer.strategy.root_device)
            tokens, calls = self._recorder.reduce(total).tolist()
            pl_module.log("llm/tokens", float(tokens))
            pl_module.log("llm/calls", float(calls))
        self._warn_of_silence(asked, unanswered)
        if self.rule == "joint":  # it drops a fixed fraction; whether the scorer tells samples apart, scores say
            hard, judged_in_all = fitting, suspicious_in_all
        if judged_in_all >= _FEW and not 0.02 < (share := hard / judged_in_all) < 0.98:
            found = "fit (5.5 or more)" if self.rule == "joint" else "were judged hard"
            _warn(
                f"{share:.0%} of the suspicious items that the scorer answered {found}: unless nearly all of them are "
                f"{'right' if share > 0.5 else 'noise'}, it does not tell them apart. "
                "Look at the scores in the log (llm/score_1 to llm/score_10) and at preferences.jsonl."
            )

    def _warn_of_silence(self, asked: int, unanswered: int) -> None:
        """Warn once if most pairs have no score, which then is dropping by loss under another name."""
        if self._silent or asked < _FEW or unanswered <= asked / 2 or (self._budget and self._budget.exhausted):
            return
        self._silent = True
        refused = textwrap.shorten(getattr(self.scorer, "refused", ""), 300, placeholder="...")
        _warn(
            f"{unanswered} of {asked} pairs got no score and are left to the loss. The item has no text, the user no "
            "preference, or the judge's answers are not of the form that the prompt asks for"
            + (f"; one that is not: {refused!r}." if refused else ".")
        )

    def ask_again(self, users: Sequence[int]) -> None:
        """Forget that these users' pairs were asked about: their preferences are new."""
        revised = torch.zeros(len(self._first) - 1, dtype=torch.bool)
        revised[list(users)] = True
        revised = revised[self._recorder.users]
        self._asked &= ~revised
        self._changed |= revised

    def title(self, item: int) -> str:
        """What to call an item in a report."""
        assert self.texts is not None
        fields = self.texts[item]
        return next((text for name, text in fields.items() if name.lower().endswith(("title", "name"))), f"item {item}")

    def path(self, trainer: Trainer, name: str = "preferences") -> Path:
        """Where ``preferences`` (every change, with its cause) and ``judgements`` (of the last epoch) are written."""
        part = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        return self._folder / f"{name}{part}.jsonl"

    def state_dict(self) -> dict[str, Any]:
        """Preferences, scores and usage of all processes; called on every process at once."""
        usage = getattr(self.scorer, "usage", None)
        changed = self._changed.nonzero().flatten()
        own = {
            "preferences": self.preferences.own,
            "scores": (changed, self._scores[changed], self._asked[changed]),
            "usage": {} if usage is None else usage.state_dict(),
            "exhausted": self._budget.max_tokens if self._budget is not None and self._budget.exhausted else None,
        }
        parts: list[Any] = [own]
        if self._trainer is not None and self._trainer.world_size > 1:
            parts = [None] * self._trainer.world_size
            torch.distributed.all_gather_object(parts, own)
        scores, asked = self._scores.clone(), self._asked.clone()
        for samples, new_scores, new_asked in (part["scores"] for part in parts):
            scores[samples], asked[samples] = new_scores, new_asked
        preferences = self.preferences.state_dict()
        if len(parts) > 1:
            preferences = self.preferences.merged([part["preferences"] for part in parts])
        spent = {name: [part[name] for part in parts] for name in ("usage", "exhausted")}
        return {"preferences": preferences, "scores": scores, "asked": asked, **spent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint. What was used up is each process's own, or shared out where their number differs."""
        self.preferences.load_state_dict(state_dict["preferences"])
        self._scores, self._asked = state_dict["scores"].clone(), state_dict["asked"].clone()
        self._changed = torch.zeros_like(self._asked)
        usage = getattr(self.scorer, "usage", None)
        if usage is None:
            return
        rank, processes = (0, 1) if self._trainer is None else (self._trainer.global_rank, self._trainer.world_size)
        parts = state_dict["usage"]
        if len(parts) == processes:
            usage.load_state_dict(parts[rank])
        else:
            total = Usage()
            for part in parts:
                for template, counts in part.items():
                    total.add(template, **counts)
            usage.load_state_dict(
                {
                    template: {name: (count + rank) // processes for name, count in counts.items()}
                    for template, counts in total.state_dict().items()
                }
            )
        limits = [limit for limit in state_dict["exhausted"] if limit is not None]
        if self._budget is not None and limits:
            self._budget.exhausted = self._budget.max_tokens in limits
            if not self._budget.exhausted:  # it has been raised: what had no answer is asked again
                self._asked &= ~self._scores.isnan()

    @property
    def _budget(self) -> Budget | None:
        return getattr(self.scorer, "budget", None)


def _warn(message: str) -> None:
    warnings.warn(f"LLMSampleScorer: {message}", stacklevel=2)

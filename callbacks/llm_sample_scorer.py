"""LLMSampleScorer: asks the language model about suspicious samples, keeps the hard ones (docs/paper.md, section 3)."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from llmhd_pl.callbacks.epoch_end import EpochEndCallback, required
from llmhd_pl.callbacks.variance_pruning import VariancePruning
from llmhd_pl.denoising.epoch import Epoch
from llmhd_pl.denoising.rules import RULES, Rule, decide
from llmhd_pl.denoising.store import CANDIDATE, CLEAN, HARD, observed
from llmhd_pl.llm import doubts
from llmhd_pl.llm.judgements import Agreement, Judgements
from llmhd_pl.llm.scorer import Scorer, check_scorer, identity
from llmhd_pl.processes import gathered, own_file, wait_for_all
from llmhd_pl.scale import FITTING

Scored = Literal["candidates", "all"]


class LLMSampleScorer(EpochEndCallback):
    """Rewrites the loss weights of the next epoch: hard candidates are kept, the rest of the noise set is dropped.

    A preference is summarised when its user is first asked about, from all observed items of the user in train. In the
    run's folder ``preferences.jsonl`` says how each preference came to be, and ``judgements.jsonl``, written when the
    fit ends, what was decided about each suspicious observed item in the last epoch.

    Args:
        scorer: The judge. It is held here and not in the LightningModule, because a quantised model must not be moved.
        rule: "paper" (as printed), "consistent" (kept where the observed item fits) or "joint" (loss and score decide
            together which fraction is dropped).
        scored: Whom the scorer is asked about: "candidates", or "all" observed items, for the rule "joint" and a judge
            that costs almost nothing.
        score_weight: The weight of the score against the loss, in the rule "joint".
        texts: The text fields of each item, by item number: ``[{"title": "Dune"}, ...]``; None takes
            ``interactions.items`` of the trainer's data module.

    Raises:
        TypeError: If the scorer is not a scorer's object, or if the texts are not a list of dicts of texts.
        ValueError: If the rule is unknown, or if all samples are to be scored for a rule that asks about candidates
            only.
        RuntimeError: If ``SampleRecorder`` and ``VariancePruning`` do not come before it, if no texts are known, or,
            when the fit ends, if pairs were asked about and none was ever scored: then the loss alone has decided.
    """

    judgements: Judgements
    """What the scorer has said so far, once the fit has been set up."""

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
        check_scorer(scorer)
        if texts is not None:
            _check_texts(texts)
        self.scorer, self.rule, self.scored, self.score_weight, self.texts = scorer, rule, scored, score_weight, texts
        # The last epoch that was decided, and the scores and the status of its observed items.
        self._last: tuple[int, Tensor, Tensor] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the callbacks before it and the texts of the items."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        required(trainer, self, VariancePruning)
        goes_on = self._trainer is not None and self.recorder.goes_on
        self._trainer, self._last, self._silent = trainer, None, False
        self._asked, self._scored = 0, False  # pairs of all processes that were asked about, and whether one was scored
        users, items = self.recorder.users, self.recorder.items
        texts = self.texts
        if texts is None:
            data = getattr(getattr(trainer, "datamodule", None), "interactions", None)
            texts = getattr(data, "items", None)
            if not texts:
                where = f" ({data.name})" if data is not None and getattr(data, "name", None) else ""
                raise RuntimeError(
                    "LLMSampleScorer does not know what the items are: the trainer's data module has no item texts. "
                    f"Put an items.jsonl or an .item file beside the interactions{where} (docs/data.md), or give "
                    "LLMSampleScorer(texts=...), a list with a dict of text fields for each item number."
                )
        if self.texts is None:
            _check_texts(texts)
        if len(texts) <= (last := int(items.max())):
            raise RuntimeError(
                f"LLMSampleScorer has texts of {len(texts)} items, but the interactions name item {last}. Give a "
                "dict for every item number from 0 on, an empty one where nothing is known."
            )
        if not goes_on:
            self.judgements = Judgements(self.scorer, texts, users, items, self.recorder.labels)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the scorer take in the catalog; one process after the other, so that the others find it cached."""
        wait_for_all(trainer)
        if trainer.global_rank == 0:
            self.judgements.prepare()
        wait_for_all(trainer)
        if trainer.global_rank != 0:
            self.judgements.prepare()
        wait_for_all(trainer)
        # Processes agree on log_dir when it is asked for: all must ask, which they do here, and not where files are
        # written, which only those do that have something to write.
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)
        self.judgements.write_preferences(own_file(trainer, self._folder / "preferences.jsonl"))

    def at_epoch_end(self, trainer: Trainer, pl_module: LightningModule, epoch: Epoch) -> None:
        """Ask the scorer, and decide."""
        if self.rule == "paper" and not epoch.pointwise and epoch.labels is None and (epoch.negatives < 0).all():
            raise RuntimeError(
                "The rule 'paper' compares the observed with the sampled item of each sample, and the batches have no "
                "'negative'. Use the rule 'joint' or 'consistent', or put the sampled items into the batch."
            )
        observed_wanted, sampled_wanted = self._wanted(epoch)
        suspicious = observed(epoch.status != CLEAN).cpu()
        self.scorer.fault = ""  # what happens from now on may explain why there is no answer
        positive, agreement = self.judgements.score_observed(epoch.number, observed_wanted)
        negative = torch.full_like(positive, torch.nan)
        sampled = sampled_wanted.nonzero().flatten()
        negative[sampled] = self.judgements.score(epoch.number, epoch.users[sampled], epoch.negatives[sampled])
        wait_for_all(trainer)
        self._report_agreement(pl_module, epoch, agreement)
        epoch.decide(decide(self.rule, epoch, positive, negative, self.score_weight))
        self._report_answers(pl_module, epoch, (observed_wanted, positive), (sampled_wanted, negative))
        self._report_doubts(pl_module, epoch, suspicious, (observed_wanted, positive), (sampled_wanted, negative))
        # A copy: if the next epoch is broken off while it asks, its status is half decided.
        self._last = epoch.number, positive, observed(epoch.status).cpu().clone()
        self.judgements.write_preferences()

    def _wanted(self, epoch: Epoch) -> tuple[Tensor, Tensor]:
        """The samples whose observed and whose sampled item is asked about, bool [n] each."""
        candidates = (epoch.status == CANDIDATE).cpu()
        positive, negative = candidates.unbind(1) if epoch.pointwise else (candidates, candidates)
        if not epoch.pointwise and self.rule != "paper":  # of a pair only the printed rule looks at the sampled item
            negative = torch.zeros_like(negative)
        if self.scored == "all":
            positive = ~observed(epoch.losses).isnan().cpu()
        return positive, negative & (epoch.negatives >= 0)

    def _report_agreement(self, pl_module: LightningModule, epoch: Epoch, agreement: Agreement) -> None:
        """Log how often the scorer agrees with itself, and warn if it does not."""
        counts = epoch.reduce(torch.tensor(agreement, device=epoch.losses.device)).tolist()
        for name, agreed, compared, what in (
            ("agreement", *counts[:2], "after revisions {} of {} pairs changed sides"),
            ("similar_agreement", *counts[2:], "of two similar items of one user, {} times out of {} only one fits"),
        ):
            if compared:
                pl_module.log(f"llm/{name}", agreed / compared)
            self._warn(doubts.contradiction(agreed, compared, what))

    def _report_answers(self, pl_module: LightningModule, epoch: Epoch, *asked: tuple[Tensor, Tensor]) -> None:
        """Log what was asked and answered, and what it has cost; warn of a scorer that does not answer."""
        answers = torch.cat([scores[wanted] for wanted, scores in asked])
        levels = torch.bincount(answers[~answers.isnan()].round().long(), minlength=11)[1:]
        counts = torch.cat([torch.tensor([len(answers), int(answers.isnan().sum())]), levels])
        pairs, unanswered, *levels_in_all = epoch.reduce(counts.to(epoch.losses.device)).tolist()
        self._asked += pairs
        self._scored |= unanswered < pairs
        pl_module.log("llm/pairs", float(pairs))
        pl_module.log("llm/unanswered", float(unanswered))
        for level, count in enumerate(levels_in_all, 1):
            pl_module.log(f"llm/score_{level}", float(count))
        self._warn(doubts.indifference(levels_in_all))
        usage, budget = self.scorer.usage, self.scorer.budget
        if usage is not None:
            used = epoch.reduce(torch.tensor([usage.tokens, usage.calls], device=epoch.losses.device))
            pl_module.log("llm/tokens", float(used[0]))
            pl_module.log("llm/calls", float(used[1]))
        if not self._silent and not (budget is not None and budget.exhausted):
            message = doubts.silence(pairs, unanswered, self.scorer.refused, self.scorer.fault)
            self._silent = message is not None
            self._warn(message)

    def _report_doubts(
        self, pl_module: LightningModule, epoch: Epoch, suspicious: Tensor, *asked: tuple[Tensor, Tensor]
    ) -> None:
        """Warn if the answers do not tell the suspicious samples apart."""
        (_, positive), (sampled_wanted, negative) = asked
        if self.rule == "joint":  # it drops a fixed fraction, so the scores must say whether they tell samples apart
            answered = suspicious & ~positive.isnan()
            fits, what = positive >= FITTING, "fit (5.5 or more)"
            if epoch.labels is not None:
                fits, what = fits == (epoch.labels.cpu() == 1), "have the label that the judge would give them"
            found, answers = fits[answered].sum(), answered.sum()
        else:
            found, what = (epoch.status == HARD).sum().cpu(), "were judged hard"
            if epoch.pointwise:
                answers = torch.cat([~scores[wanted].isnan() for wanted, scores in asked]).sum()
            else:  # a pair of items is judged once, by two answers
                answers = (~positive.isnan() & ~(sampled_wanted & negative.isnan())).sum()
        found_in_all, answered_in_all = epoch.reduce(torch.stack([found, answers]).to(epoch.losses.device)).tolist()
        self._warn(doubts.one_sidedness(found_in_all, answered_in_all, what))

    def _warn(self, message: str | None) -> None:
        if message is not None:
            warnings.warn(f"LLMSampleScorer: {message}", stacklevel=3)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``judgements.jsonl``."""
        try:
            self._write_judgements(trainer)
        except OSError as error:
            self._warn(str(error))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a run in which no pair was scored, also one that is resumed when no epoch is left."""
        budget = self.scorer.budget
        if not self._scored and not (budget is not None and budget.exhausted):
            message = doubts.nothing_scored(self._asked, self.scorer.refused)
            if message is not None:
                raise RuntimeError(f"LLMSampleScorer: {message}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write ``judgements.jsonl`` for a run that is broken off, too, without hiding what broke it off."""
        try:
            self._write_judgements(trainer)
        except Exception as error:
            exception.add_note(f"And judgements.jsonl could not be written: {type(error).__name__}: {error}")

    def _write_judgements(self, trainer: Trainer) -> None:
        """Write what was decided about the suspicious observed items of the last epoch."""
        if self._last is None:
            return
        epoch, scores, status = self._last
        samples = (status != CLEAN).nonzero().flatten()
        data = getattr(getattr(trainer, "datamodule", None), "interactions", None)
        self.judgements.write(
            own_file(trainer, self._folder / "judgements.jsonl"),
            epoch,
            samples,
            scores[samples],
            status[samples] == HARD,
            getattr(data, "user_names", None),
            getattr(data, "item_names", None),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return preferences, scores and usage of all processes. Lightning calls it on every process at once."""
        if self._trainer is None:
            return {}  # nothing was trained
        judge = {"judge": identity(self.scorer), "pairs": self._asked, "scored": self._scored}
        return self.judgements.merged(gathered(self._trainer, self.judgements.own)) | judge

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint; of another judge's, only what has been used."""
        if self._trainer is not None and state_dict:
            before, now = state_dict.get("judge"), identity(self.scorer)
            if before not in (None, now):
                self._warn(
                    f"the checkpoint's preferences and scores are those of another judge ({before}), and this one is "
                    f"{now}: it is asked anew about everything."
                )
                recorder, texts = self.recorder, self.judgements.texts
                new = Judgements(self.scorer, texts, recorder.users, recorder.items, recorder.labels)
                said = new.merged([new.own])
                unsaid = {name: said[name] for name in ("preferences", "scores", "asked")}
                state_dict = state_dict | unsaid | {"pairs": 0, "scored": False}
            self.judgements.load_state_dict(state_dict, self._trainer.global_rank, self._trainer.world_size)
            # What has been asked without any answer is refused again; what another judge was asked is not.
            self._asked += state_dict.get("pairs", 0)
            self._scored |= state_dict.get("scored", not bool(state_dict["scores"].isnan().all()))


def _check_texts(texts: Any) -> None:
    if isinstance(texts, Mapping) or not all(isinstance(text, Mapping) for text in texts):
        raise TypeError(
            "texts must be a list with a dict of text fields for each item, in the order of the items' numbers: "
            '[{"title": "Dune"}, ...].'
        )
    for item, text in enumerate(texts):
        for name, value in text.items():
            if not (isinstance(name, str) and isinstance(value, str)):
                raise TypeError(
                    f"texts[{item}][{name!r}] is {value!r}; names and values must be str. Leave out what is missing, "
                    'and write numbers as text: table.fillna("").astype(str).to_dict("records").'
                )

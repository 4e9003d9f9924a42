"""An experiment file as it is written: its tables, and what each says of its runs."""

from typing import Annotated, Any, Literal

from pydantic import Field

from sbora_bench.plan.comparison import Comparison
from sbora_bench.plan.entry import Strict
from sbora_bench.plan.regions import Regions
from sbora_bench.plan.sizes import Grid
from sbora_bench.plan.stages import End, RateList, Rates, Seed, SeedList, Seeds, each_once

TABLE_NAME = r"^[a-z0-9][a-z0-9-]{0,47}$"  # it is part of a rule's name too


class Table(Strict):
    title: str = ""
    suite: str
    train: str = Field(description="a training set of the catalog")
    protocol: str
    seeds: SeedList
    grids: list[Grid] = Field(min_length=1)
    items: str | None = Field(default=None, description="which items of each task: paper, ladder, ...")
    limit: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description="task: how many of its items to score, drawn by limit_seed"
    )
    limit_seed: Seed = 0
    contaminated: Literal["keep", "drop"] = Field(
        default="keep", description="what becomes of test items whose question is in the training set"
    )
    missing: Literal["fail", "skip"] = Field(
        default="fail", description="skip: a task whose file can't be obtained shows as not available"
    )
    metric: Literal["score", "gold_loss"] = Field(
        default="score",
        description="what methods are compared by: the tasks' own scores, or the loss of the gold answer beside them",
    )
    answer_by: Literal["generation", "likelihood"] = Field(
        default="generation",
        description="likelihood: nothing is generated; a choice is its likeliest label, other tasks have their loss",
    )
    fresh_items: bool = Field(default=False, description="synthetic items made anew for each seed, by that seed")
    also: Annotated[list[str], each_once("suite")] = Field(
        default_factory=list, description="suites scored beside its own: what tuning forgets"
    )
    learning_rates: RateList = Field(
        default_factory=list, description="train at each, show the best on held-out training rows; or pick that first"
    )
    validation_items: Annotated[int, Field(ge=1)] = Field(
        default=200, description="training rows held out, at most, to pick a learning rate by"
    )
    overrides: dict[str, Any] = Field(default_factory=dict, description="protocol fields that differ here")
    comparisons: list[Comparison] = Field(
        default_factory=list, description="which cells are compared, declared before anything runs"
    )
    regions: Regions | None = Field(
        default=None, description="the runs of which it is shown what their adapters change in the base's weights"
    )

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds after which it is looked whether a cell needs more; empty where all are run."""
        return self.seeds.looks if isinstance(self.seeds, Seeds) else ()

    @property
    def looks_planned(self) -> tuple[int, ...]:
        """The looks; of a list of seeds the one after all of them."""
        return self.looks or (len(self.seeds),)

    @property
    def staged(self) -> bool:
        """Whether it is decided on the way which of its runs are made."""
        return bool(self.looks or self.rounds)

    @property
    def common_seeds(self) -> list[int]:
        """Seeds that every cell is run with."""
        return self.seeds[: self.looks[0]] if self.looks else self.seeds

    @property
    def picking_seeds(self) -> tuple[int, ...]:
        """Seeds of the runs that a learning rate is picked by before the others are run; empty where none is."""
        return self.learning_rates.picking_seeds if isinstance(self.learning_rates, Rates) else ()

    @property
    def beyond(self) -> dict[End, tuple[float, ...]]:
        """End of the grid of learning rates -> the rates beyond it that a cell may try, the nearest first."""
        return self.learning_rates.beyond if isinstance(self.learning_rates, Rates) else {}

    @property
    def rounds(self) -> int:
        """How often it is looked, at most, which cells try a learning rate beyond their grid."""
        return max(map(len, self.beyond.values()), default=0)

    @property
    def every_rate(self) -> list[float]:
        """The learning rates that a cell may be run at: the grid's, then those beyond its ends."""
        return [*self.learning_rates, *(rate for rates in self.beyond.values() for rate in rates)]


class Experiment(Strict):
    title: str
    description: str = ""
    note: str = Field(default="", description="what every table's title says of its numbers")
    items: str = Field(description="which items the tasks are scored on: paper, ladder, ...")
    runs_per_job: int = Field(default=1, ge=1, description="runs of a table and model that one job carries")
    gpus_per_job: int = Field(default=0, ge=0, description="GPUs that a training or scoring job asks for")
    paper_footprint: bool = Field(default=False, description="count the paper's cells at true scale too")
    tables: dict[Annotated[str, Field(pattern=TABLE_NAME)], Table] = Field(min_length=1)

"""Data validation: what may be trained on, and what may only be tested on.

Before parsing, size, nesting and encoding are capped and checked; then each record by itself; then its text, by a policy
that fits the model type; then all records together: duplicates, contamination, sources, classes, drift. Splits are cut
between scenario groups. What is refused goes to quarantine with its reason: kept + quarantined == read, always.

    python -m components data_validation --config FILE --input verified=DIR --output dataset=DIR --output report=DIR

More data than one machine takes is examined in shards: see sharded.py.
"""

from pydantic import BaseModel, ConfigDict, Field

from components.shared.contracts.stage import ArtifactKind, Job, StageConfig, StageSpec


class Caps(BaseModel):
    """What is looked at before a record is parsed: nothing larger reaches a parser."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    line_bytes: int = Field(default=1 << 20, ge=1)
    """Longest line; of a longer one the quarantine keeps the beginning and the SHA-256."""
    lines: int = Field(default=50_000_000, ge=1)
    """Most records of one input."""
    depth: int = Field(default=32, ge=1)
    """Deepest nesting of objects and arrays."""
    ratio: float = Field(default=100.0, ge=1)
    """Bytes that one compressed byte may become; JSON lines of text reach about 30, a bomb 1000."""


class NaturalText(BaseModel):
    """Checks of text in a natural language, as an endpoint's teacher writes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    languages: tuple[str, ...] = ("en",)
    """ISO 639-1 codes; none for any language."""
    language_bytes: int = Field(default=80, ge=1)
    """Shorter texts are not judged: a guess at their language is too often wrong."""
    language_probability: float = Field(default=0.9, gt=0, le=1)
    """Probability of another language from which a text is refused."""
    entities: tuple[str, ...] = (
        "CREDIT_CARD",
        "CRYPTO",
        "EMAIL_ADDRESS",
        "IBAN_CODE",
        "IP_ADDRESS",
        "PHONE_NUMBER",
        "US_SSN",
    )
    """Personal data that is looked for, by presidio's names; these alone, since people's names are what a story needs."""
    entity_score: float = Field(default=0.4, ge=0, le=1)
    """presidio's score from which a find counts: bare digit runs score 0.05, a valid phone number 0.4."""
    secrets: bool = True
    """Whether keys and passwords are looked for."""
    near_duplicate: float = Field(default=0.7, gt=0, le=1)
    """Jaccard likeness of two completions' three-word shingles from which the lesser one is a near-duplicate."""
    coverage: float = Field(default=0.5, gt=0, le=1)
    """Share of a held-out prompt's own 13-grams (8-grams where it is shorter) that no training text may reach, and of an
    answer's 8-grams that its prompt may not."""


class Drift(BaseModel):
    """Bounds on the population stability index against the last accepted night, beyond what chance alone gives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    warn: float = Field(default=0.1, gt=0)
    block: float = Field(default=0.25, gt=0)


FIRST_NIGHT = "none"
"""What `accepted` says where no night was accepted before."""


class DataValidationConfig(StageConfig):
    min_train: int = Field(default=100, ge=1)
    """Verified training trajectories below which the night stops (specification: Gold 100, Silver 200, Bronze 500)."""
    min_test: int = Field(default=100, ge=1)
    """Held-out scenarios below which no evaluation could be trusted."""
    max_quarantined: float = Field(default=0.5, ge=0, le=1)
    """Share of records refused above which the source itself is suspect and the stage fails."""
    near_duplicate: float = Field(default=0.97, gt=0, le=1)
    """Likeness of two completions to one and the same prompt from which the later one is a near-duplicate."""
    caps: Caps = Caps()
    max_tokens: int = Field(default=4096, ge=1)
    """Tokens of prompt and completion that the target model has room for."""
    tokenizer: str | None = None
    """tokenizer.json of the target model; without one a token is a word of a formal language, else four bytes."""
    formal: tuple[str, ...] = ("npc_dialogue", "reasoning", "story_generation")
    """Model types whose texts are words of their trainer's closed vocabulary, which says more than any check of natural
    text could; all others are `natural`."""
    natural: NaturalText = NaturalText()
    source_caps: dict[str, int] = {}
    """Most trajectories of one teacher, by its name; `*` for every teacher that is not named. A few hundred poisoned
    records suffice however many sound ones there are (arXiv 2510.07192), so the caps are counts and not shares."""
    max_class_share: float = Field(default=0.9, gt=0, le=1)
    """Share of the training trajectories that one class (a scenario group's first part) may have."""
    drift: Drift = Drift()
    accepted: str = FIRST_NIGHT
    """profile.json of the last accepted night's data set, as a path or an S3 URI; `none` for a first night."""


SPEC = StageSpec(
    name="data_validation",
    config=DataValidationConfig,
    inputs={"verified": ArtifactKind.TRAJECTORIES},
    outputs={"dataset": ArtifactKind.DATASET},
    parameters=("accepted",),
    job=Job.PROCESSING,
    image="data",
)

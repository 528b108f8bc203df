"""Schemas of answers: pydantic models, which the description of the service shows."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from jaxrec.service.schemas import Key


class ErrorAnswer(BaseModel):
    """Answer to a request that is not served."""

    error: str = Field(description="One line: the value and what is allowed.")


class Weight(BaseModel):
    """Weight of a played title: the score minus the score without its plays."""

    title: Key
    name: str | None = None
    weight: float | None


class Reasons(BaseModel):
    """Reasons of a recommended title."""

    plays: list[Weight] = Field(description="Played titles that raise the score most, the highest first.")
    genres: list[str] = Field(description="Values that the title shares with titles of the history.")
    popularity_rank: int = Field(description="1: the title with the most plays in training.")


class ListedTitle(BaseModel):
    """Title of a list."""

    title: Key
    name: str | None = None
    rank: int
    score: float | None = Field(description="Orders the titles; null where the order is that of popularity.")
    completion: float | None = Field(description="Predicted completion; null without such a head.")
    reasons: Reasons | None = None


class _ListAnswer(BaseModel):
    """Fields of every answer with a list of titles."""

    user: Key | None
    order: str = Field(description='"top picks" or "popularity"')
    empty_history: bool = Field(description="True where the history has no known title.")
    plays_of_unknown_titles: int
    model: str = Field(description="Fingerprint of the export.")


class RecommendAnswer(_ListAnswer):
    """Answer of /v1/recommend."""

    titles: list[ListedTitle] = Field(description="Empty where the filters leave no title.")


class FoundTitle(ListedTitle):
    """Title of a search."""

    match: Literal["name", "word"] | None = Field(
        description='"name": the name begins with the query, or a genre is the query; "word": a later word '
        "of the name begins with it; null: neither, or matches_first is false."
    )


class SearchAnswer(_ListAnswer):
    """Answer of /v1/search."""

    titles: list[FoundTitle] = Field(description="Empty where the filters leave no title.")
    query: str = Field(description="As it was sent; its first 128 characters are read.")


class TitleScore(BaseModel):
    """Score of a title."""

    title: Key
    score: float | None


class ScoreAnswer(BaseModel):
    """Answer of /v1/score."""

    user: Key | None
    scores: list[TitleScore] = Field(description="In the order of the request.")
    empty_history: bool
    plays_of_unknown_titles: int
    model: str


class SimilarTitle(BaseModel):
    """Title that is similar to another."""

    title: Key
    name: str | None = None
    rank: int
    cosine: float | None


class SimilarAnswer(BaseModel):
    """Answer of /v1/similar."""

    title: Key
    titles: list[SimilarTitle]
    model: str


class CatalogueTitle(BaseModel):
    """Title of the catalogue."""

    title: Key
    name: str | None = None
    genres: list[str]
    popularity_rank: int


class TitlesAnswer(BaseModel):
    """Answer of /v1/titles."""

    titles: list[CatalogueTitle]


class ManifestAnswer(BaseModel):
    """Answer of /v1/manifest: the manifest of the export without its files and its config."""

    model: str
    columns: dict[str, Any]
    manifest: dict[str, Any]


class HealthAnswer(BaseModel):
    """Answer of /healthz and /readyz."""

    status: str
    model: str | None = None
    reload_error: str | None = None


class SlateSlot(BaseModel):
    """Slot of an event in a slate."""

    event: str
    slot: int
    title: str
    badge: str
    playable: bool
    time_from: str
    metadata: dict[str, Any]


class SlatesAnswer(BaseModel):
    """Answer of /v1/slates: what the slates are of."""

    model: str
    titles: int
    spare: int
    regions: list[str]
    segments: str
    events: list[dict[str, Any]]


class SlateAnswer(BaseModel):
    """Answer of /v1/slates: titles in order, and spare ones in the place of those that a user has watched."""

    format: int
    titles: list[str]
    spare: list[str]
    slots: list[SlateSlot]
    rule: str

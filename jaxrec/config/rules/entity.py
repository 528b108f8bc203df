"""Rules of title vectors from ids and metadata, and of cold masking."""

from jaxrec.config.schema import Config
from jaxrec.config.tree import require
from jaxrec.core.ids import TITLE_ID


def check_entity(config: Config) -> None:
    """Raise InputError for the first setting of title vectors that does not fit the features."""
    model = config.model
    is_masked, is_mixed = model.cold_masking_new > 0, model.entity == "mixed"
    for name in ("cold_masking", "cold_masking_new"):
        value = getattr(model, name)
        require(0 <= value <= 1, f"model.{name}", value, "be within 0 to 1")
    allowed = f"be at most model.cold_masking_new={model.cold_masking_new:g}: new titles are masked most"
    require(model.cold_masking <= model.cold_masking_new, "model.cold_masking", model.cold_masking, allowed)
    if model.launch_day:
        days = [f.name for f in config.features if (f.where, f.kind) == ("title", "number")]
        allowed = f"be a title feature of kind number: {', '.join(days) or 'there is none'}"
        require(model.launch_day in days, "model.launch_day", model.launch_day, allowed)
        allowed = "be empty with model.entity='concat', which reads no age"
        require(is_mixed, "model.launch_day", model.launch_day, allowed)
    read = {
        f.name for f in config.features
        if f.where == "title" and (not model.features or f.name in model.features)
    }  # fmt: skip
    key, value = (
        ("model.entity", model.entity) if is_mixed else ("model.cold_masking_new", model.cold_masking_new)
    )
    if is_mixed or is_masked:
        has_both = TITLE_ID in read and read != {TITLE_ID}
        allowed = (
            f"be {'concat' if is_mixed else 0} unless the model reads {TITLE_ID} and another title feature"
        )
        require(has_both, key, value, allowed)

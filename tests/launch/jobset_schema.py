"""Write jobset.schema.json, the schema of a JobSet, from Kubeflow's models.

    pip install kubeflow-trainer-api==2.3.0 && python tests/launch/jobset_schema.py

The package (PyPI, Apache-2.0, The Kubeflow Authors) has the JobSet API (jobset.x-k8s.io/v1alpha2) and its
Kubernetes types, generated from their OpenAPI specifications. The schema leaves out descriptions, except for
the allowed values that they list. All objects reject unknown fields.
"""

import json
import re
from pathlib import Path
from typing import Any

_EITHER = {"IoK8sApimachineryPkgApiResourceQuantity", "IoK8sApimachineryPkgUtilIntstrIntOrString"}
_UNLISTED = {("IoK8sApiBatchV1JobSpec", "completionMode"): ["Indexed", "NonIndexed"]}


def values(description: str) -> list[str]:
    """Return the allowed values that a description lists."""
    _, marker, listed = description.partition("Possible enum values:")
    if marker:
        return re.findall(r'- `"(\w+)"`', listed)
    valid = re.search(r"Valid values are ((?:\w+, )+\w+)\.", description)
    return valid[1].split(", ") if valid else []


def slim(tree: Any) -> Any:
    """Return the schema without texts, defaults and null."""
    if isinstance(tree, list):
        return [slim(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    out = {k: slim(v) for k, v in tree.items() if k not in ("title", "description", "default", "properties")}
    if "properties" in tree:
        out["properties"] = {k: slim(v) for k, v in tree["properties"].items()}
        out.setdefault("additionalProperties", False)
    if len(out.get("anyOf", ())) == 2 and out["anyOf"][1] == {"type": "null"}:
        out |= out.pop("anyOf")[0]
    if out.get("type") == "string" and (listed := values(tree.get("description", ""))):
        out["enum"] = listed
    return out


def main() -> None:
    from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

    model_schema = JobsetV1alpha2JobSet.model_json_schema(by_alias=True)
    types = {name: slim(tree) for name, tree in model_schema.pop("$defs").items()}
    for name in _EITHER:
        types[name] = {"type": ["number", "string"]}
    for (name, field), listed in _UNLISTED.items():
        types[name]["properties"][field]["enum"] = listed
    schema = slim(model_schema) | {"$defs": types, "required": ["apiVersion", "kind", "metadata", "spec"]}
    schema["properties"] |= {"apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"}, "kind": {"const": "JobSet"}}
    text = json.dumps(schema, separators=(",", ":"), sort_keys=True)
    Path(__file__).with_name("jobset.schema.json").write_text(text + "\n")


if __name__ == "__main__":
    main()

"""PyPI's gcp-storage-emulator, with the header that TensorStore needs in a download:

    python tests/engines/gcs_emulator.py start --host=localhost --port=6002 --default-bucket=bucket

TensorStore refuses an object without x-goog-generation ("Malformed StorageGeneration"); the emulator has the
number in the JSON of the object alone. It checks no precondition (ifGenerationMatch), which one writer does
not need, and answers 404 to the repetition of an upload that it has finished, where Google answers 200.
"""

import sys
from typing import Any

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

_download = objects.download


def download(request: Any, response: Any, storage: Any, *rest: Any, **options: Any) -> None:
    """Answer as the emulator does, with the generation of the object in a header."""
    try:
        stored = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
        response["x-goog-generation"] = stored["generation"]
    except NotFound:
        response["x-goog-generation"] = "0"
    _download(request, response, storage, *rest, **options)


objects.download = download  # before the server, whose routes name the function

if __name__ == "__main__":
    from gcp_storage_emulator.__main__ import main

    sys.exit(main())

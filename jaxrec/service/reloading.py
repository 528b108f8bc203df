"""Served model of a folder, replaced while requests are served when the export of the folder changes.

A new export is loaded and compiled in a thread of its own. Requests that were parsed for the old model are
answered by the old model. An export that cannot be loaded leaves the old model in place.
"""

import logging
import os
import threading

from jaxrec.core.errors import InputError
from jaxrec.runtime.host_memory import freeze_live_objects
from jaxrec.service.answers.model import ServedModel, export_fingerprint
from jaxrec.service.metrics import Metrics
from jaxrec.service.options import ServiceOptions

_LOG = logging.getLogger(__name__)


class ModelHolder:
    """Model that is served, and the thread that replaces it.

    Args:
        folder: Folder of the export.
        options: Limits.
        metrics: Metrics, changed in place.

    Raises:
        InputError: As for `ExportedRecommender.load`.
    """

    def __init__(self, folder: str | os.PathLike, options: ServiceOptions, metrics: Metrics) -> None:
        self._folder, self._options, self._metrics = folder, options, metrics
        self.model = ServedModel.load(folder, options)
        self.is_compiled = False
        self.error: str | None = None  # of the last reload
        self.failure: str | None = None  # of the first model
        self._wanted, self._stopped = threading.Event(), False
        self._thread = threading.Thread(target=self._watch, name="reload", daemon=True)

    def start(self) -> None:
        """Compile the model and watch the folder, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a reload that runs is not waited for."""
        self._stopped = True
        self._wanted.set()

    def ends_within(self, seconds: float) -> bool:
        """Wait for the thread to end after `stop`; return False where it compiles for longer."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def request_reload(self) -> None:
        """Let the thread look at the folder now."""
        self._wanted.set()

    def _watch(self) -> None:
        try:
            self._metrics.programs.set(self.model.compile())
        except Exception as error:  # of any part of jax; /healthz fails then, so that the process is replaced
            _LOG.exception("the programs of the export cannot be compiled")
            self.failure = str(error)
            return
        self._serve(self.model)
        self.is_compiled = True
        while not self._stopped:
            is_wanted = self._wanted.wait(self._options.reload_every or None)
            self._wanted.clear()
            if not self._stopped:
                self.reload(is_wanted)

    def reload(self, is_wanted: bool = False) -> bool:
        """Replace the model if the export of the folder is another one; return True if it is replaced.

        Args:
            is_wanted: Also report a folder without an export, which the replacement of a folder leaves for
                a moment.
        """
        try:
            fingerprint = export_fingerprint(self._folder)
            if fingerprint == self.model.fingerprint:
                self.error = None
                return False
            model = ServedModel.load(self._folder, self._options)
            if model.schemas.plays != self.model.schemas.plays or model.schemas.features != (
                self.model.schemas.features
            ):
                raise InputError(f"{self._folder}: other columns than those served; restart the service")
            programs = model.compile()
        except FileNotFoundError as error:
            if is_wanted:
                self._report(error)
            return False
        except Exception as error:  # an export that is damaged may fail in any part of jax
            self._report(error)
            return False
        self._metrics.programs.set(programs)
        self._serve(model)
        self._metrics.reloads.labels("replaced").inc()
        self.error = None
        _LOG.info("serving the export %s, step %d", model.fingerprint, model.recommender.step)
        return True

    def _serve(self, model: ServedModel) -> None:
        self.model = model
        freeze_live_objects()
        self._metrics.model.clear()
        self._metrics.model.labels(model.fingerprint, str(model.recommender.step)).set(1)

    def _report(self, error: Exception) -> None:
        text = " ".join(str(error).split()) or type(error).__name__
        if text != self.error:
            _LOG.error("the export was not replaced: %s", text)
            self._metrics.reloads.labels("failed").inc()
        self.error = text

"""Public class `Trainer`: training of a config from Python."""

from jaxrec.config.schema import Config
from jaxrec.config.serialization import dataset_directory
from jaxrec.config.validation import check, check_devices
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.runtime.mesh import device_count
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.training import trainer
from jaxrec.training.starting import check_start


class Trainer:
    """Trainer of a config on all devices of this process.

    Args:
        config: Config of the run.

    Raises:
        InputError: The config is invalid.
    """

    def __init__(self, config: Config) -> None:
        check(config)
        check_devices(config, device_count())
        self.config = config

    def run(self, workdir: str | AnyPath | None = None) -> AnyPath:
        """Prepare the dataset if it is missing, and train; resume a run that has started.

        SIGTERM and Ctrl-C end the training after a save, as in `python -m jaxrec.train`. The method must
        therefore be called in the main thread.

        Args:
            workdir: Folder of the run. None: runs/<config name>.

        Returns:
            The folder of the run.

        Raises:
            InputError: The input is invalid, or the folder holds a run with another config or dataset.
            KeyboardInterrupt: Ctrl-C ended the training; the run can be resumed.
            SystemExit: SIGTERM ended the training; the run can be resumed.
        """
        folder = as_path(workdir or f"runs/{self.config.name}")
        directory = as_path(dataset_directory(self.config))
        check_start(self.config, folder)
        ensure_dataset(self.config, directory)
        with PreemptionHandler() as interrupt:
            trainer.train(self.config, Dataset(directory, self.config.data.verify), folder, interrupt)
        if interrupt.requested == "SIGINT":
            raise KeyboardInterrupt
        if interrupt.requested == "SIGTERM":
            raise SystemExit(interrupt.exit_status(self.config.train.preemption_exit_code))
        return folder

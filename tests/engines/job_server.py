"""Beam's local job server, with one worker in each of several worker pools:

    python tests/engines/job_server.py --port 50000 --pool_port 50010 --pools HOST:PORT,HOST:PORT,...

Beam's local_job_service_main has one worker, and a pipeline names one address of a pool. Here the pipeline
names engines:POOL_PORT, and each worker that the job server requests there is started by the next pool.
"""

import argparse
import itertools
import logging
import threading
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.utils import thread_pool_executor


class Runner(fn_runner.FnApiRunner):
    """Beam's runner with `workers` workers, which logs its stages; Beam has no setting for either."""

    workers = 1

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._num_workers = self.workers

    def _execute_bundle(self, context: Any, bundles: Any, inputs: Any) -> Any:
        logging.info("running %s", bundles.stage.name)
        return super()._execute_bundle(context, bundles, inputs)


class Pools(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Worker pools behind one address, used in turn."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = itertools.cycle(addresses)
        self._pool_of: dict[str, str] = {}  # worker id -> address

    def StartWorker(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Have the next pool start a worker."""
        address = next(self._addresses)
        self._pool_of[request.worker_id] = address
        logging.info("worker %s: pool %s", request.worker_id, address)
        with grpc.insecure_channel(address) as channel:
            return beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel).StartWorker(request)

    def StopWorker(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Have the pool of a worker stop it."""
        with grpc.insecure_channel(self._pool_of.pop(request.worker_id)) as channel:
            return beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel).StopWorker(request)


def main(port: int, pool_port: int, pools: list[str]) -> None:
    """Serve until the process is ended."""
    Runner.workers = len(pools)
    local_job_service.fn_runner.FnApiRunner = Runner
    server = grpc.server(thread_pool_executor.shared_unbounded_instance())
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(Pools(pools), server)
    server.add_insecure_port(f"[::]:{pool_port}")
    server.start()
    local_job_service.LocalJobServicer().start_grpc_server(port)
    logging.info("job server at port %d, workers in %s", port, pools)
    threading.Event().wait()


if __name__ == "__main__":
    logging.basicConfig(force=True, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pool_port", type=int, required=True)
    parser.add_argument("--pools", required=True)
    options = parser.parse_args()
    main(options.port, options.pool_port, options.pools.split(","))

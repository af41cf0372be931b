"""How fast a federation answers: real servers, mutual TLS, a record for every answer.

Beside it, in the same rounds: the engine alone, our server without its log or without
TLS, and the servers that people use today, in the plain.
"""

import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from google.protobuf import proto
from rich.console import Console

from core.errors import KeymixerError
from core.rpc.channel import wait_ready
from core.rpc.identity import (
    CA_FILE,
    CERTIFICATE_FILE,
    DATA_OWNER,
    INFERENCE_SERVER,
    KEY_FILE,
    ORCHESTRATOR,
    dns_name,
    load_identity,
)
from core.wire import write_atomically
from orchestrator.bench import machine
from orchestrator.bench.checks import check_log
from orchestrator.bench.connections import Target, Tls
from orchestrator.bench.keys import Bench, create_keys, workspace_for
from orchestrator.bench.keys import Plan as KeysPlan
from orchestrator.bench.load import Load, Way
from orchestrator.bench.measuring import Measured, put
from orchestrator.bench.peers import ALLOCATOR, THREADS, peer
from orchestrator.bench.questions import Answered, Question, answer_plainly, write_questions
from orchestrator.bench.recipes import Recipe, read_recipes
from orchestrator.bench.release import write_untrained
from orchestrator.bench.tree import Tree
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.run import running, terminate_like_interrupt
from orchestrator.simulation.setup import HEALTH_SERVICES, Stage, release, start_servers
from orchestrator.simulation.training import release_folder
from orchestrator.simulation.workspace import Workspace
from protos.open_inference_pb2 import ModelInferRequest

INFER: Final = "/inference.GRPCInferenceService/ModelInfer"

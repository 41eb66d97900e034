"""Imported once by the process that those of ``test_kills`` are forked from: each would take a second for it.

torch's optimisers import its compiler. tqdm's own lock is shared by all processes: one that is killed while it writes
would leave it locked, and the next would wait for ever. Here each has a lock of its own.
"""

import threading

import jsonargparse  # noqa: F401
import torch._dynamo  # noqa: F401
from tqdm import tqdm

import dynlm.train.finetune
import dynlm.train.gate
import dynlm.train.metatrain
import dynlm.train.pretrain  # noqa: F401

tqdm.set_lock(threading.RLock())

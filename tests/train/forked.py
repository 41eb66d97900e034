"""Imported once by the process that those of ``test_kills`` are forked from: each would take a second for it.

torch's optimisers import its compiler, and tqdm makes a lock that a killed process would not give back.
"""

import jsonargparse  # noqa: F401
import torch._dynamo  # noqa: F401
from tqdm import tqdm

import dynlm.train.finetune
import dynlm.train.gate
import dynlm.train.metatrain
import dynlm.train.pretrain  # noqa: F401

tqdm.get_lock()

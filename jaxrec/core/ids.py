"""Title ids, splits, pools and lists: the names and numbers that every layer shares.

Title ids are assigned once and only appended: 0 is padding, 1 is "unknown", the rest are titles.
"""

import numpy as np

PAD, UNKNOWN, FIRST_TITLE = 0, 1, 2
MISSING = np.iinfo(np.int64).min  # in a raw column of whole-number categories
TITLE_ID = "title_id"  # the title feature that is its own id, whatever the key's column is called
SPLITS = ("train", "validation", "test")
POOLS = ("hard", "trending", "tailing", "random")
LISTS = ("enabled", "disabled")  # frozen, of 1 + negatives titles
CATALOGUE = "catalogue"  # what is judged over all titles goes by this name beside them
SHARDED = "dealt"  # the last name of a parameter whose rows are dealt to the devices: `nn/dealt.py`
SHARD_SLOTS = 1024  # its first axis, which as many devices at most have equal parts of
INTERACTION_FEATURES = ("completion", "sessions", "age")

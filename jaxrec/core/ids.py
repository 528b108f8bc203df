"""Reserved title ids, and names of splits, pools and candidate lists.

Title ids are assigned once and only appended: 0 is padding, 1 is "unknown", the rest are titles.
"""

import numpy as np

PAD, UNKNOWN, FIRST_TITLE = 0, 1, 2
MISSING = np.iinfo(np.int64).min  # missing value in a raw column of whole-number categories
TITLE_ID = "title_id"  # reserved name of the title feature that is the title's own id
SPLITS = ("train", "validation", "test")
SERVED = "served"  # name of the pool and of the list of titles that were shown at a request and not chosen
DRAWN_POOLS = ("hard", "trending", "tailing", "random")  # pools of Table 2, which are drawn
POOLS = (*DRAWN_POOLS, SERVED)
DRAWN_LISTS = ("enabled", "disabled")  # frozen candidate lists of 1 + negatives titles
LISTS = (*DRAWN_LISTS, SERVED)  # a served list has at most as many; a request without a slate has none
CATALOGUE = "catalogue"  # name of the evaluation over all titles, next to the names in LISTS
DELAYED = "delay_"  # start of the names of metrics over all titles of scores that were computed hours before
TRUTH = "truth"  # name of the evaluation of a policy under a simulator's truth, beside the lists
REWARDS = "rewards"  # name of the values of a policy under reward models, beside the lists
LABELS = "labels"  # name of the evaluation of heads that predict labels, beside the lists
LABEL_BASELINES = "label_baselines"  # name of the metrics of predictions of labels without a model
SHARDED = "dealt"  # last name of row-sharded parameters: `models/layers/sharded_embedding.py`
SHARD_SLOTS = 1024  # first axis of a row-sharded parameter, split evenly over at most as many devices
TEXT_CHARACTERS = 128  # characters of a text feature that are read
INTERACTION_FEATURES = ("completion", "sessions", "age")
RETRIEVAL_HEAD = "retrieval_head"  # name of the retrieval head among the heads that score all titles

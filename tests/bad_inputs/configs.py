"""Door "configs and flags": config files, their values, and command lines of all commands."""

import os
from collections.abc import Callable
from pathlib import Path

from tests.bad_inputs.case import Case, Stock

TINY = str(Path(__file__).resolve().parents[2] / "configs" / "tiny.py")
STUDY = str(Path(__file__).resolve().parents[2] / "configs" / "study.py")
ROLLING = str(Path(__file__).resolve().parents[2] / "configs" / "study_rolling.py")
LIVE = str(Path(__file__).resolve().parents[2] / "configs" / "live.py")


def nothing(folder: Path, stock: Stock) -> None:
    """Make no file."""


def text(content: str | bytes, name: str = "c.py") -> Callable[[Path, Stock], None]:
    """Return a function that writes a config file."""

    def make(folder: Path, stock: Stock) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def config(*lines: str) -> Callable[[Path, Stock], None]:
    """Return a function that writes the tiny config with edits; each line may read `c`."""
    body = "".join(f"    {line}\n" for line in lines)
    return text(
        f"from configs import tiny\nfrom jaxrec.config import *\n\n\ndef get_config():\n"
        f"    c = tiny.get_config()\n{body}    return c\n",
        "configs2/c.py",
    )


def edit(name: str, *lines: str, text: str) -> Case:
    """Return a case of a config file that is the tiny config with edits."""
    return Case(name, config(*lines), ("train", "--config", "configs2/c.py", "--workdir", "w"), text)


def value(key: str, content: str, text: str) -> Case:
    """Return a case of one value on the command line."""
    command = ("train", "--config", TINY, "--workdir", "w", f"--config.{key}={content}")
    return Case(f"{key}={content}", nothing, command, text)


def file(name: str, content: str | bytes, text_: str, status: int = 2) -> Case:
    """Return a case of a config file."""
    return Case(name, text(content), ("train", "--config", "c.py", "--workdir", "w"), text_, status)


def line(name: str, *command: str, text: str, status: int = 2) -> Case:
    """Return a case of a command line alone."""
    return Case(name, nothing, command, text, status)


GET = "from jaxrec.config import *\n\n\ndef get_config({}):\n    {}\n"
C = "--config=c.py: "

FILE_CASES = [
    file("an empty config", "", C + "c.py must define get_config()"),
    file("no get_config", "config = 1\n", C + "c.py must define get_config()"),
    file("get_config is a value", "get_config = 3\n", C + "c.py must define get_config()"),
    file("a syntax error", "def get_config(:\n    pass\n", "SyntaxError"),
    file("tabs and blanks mixed", "def get_config():\n\tx = 1\n        return x\n", "TabError"),
    file("bytes that are no text", bytes(range(128, 256)), C),
    file("NUL bytes", b"def get_config():\n    return 1\0\n", C),
    file("UTF-16", GET.format("", "return Config()").encode("utf-16"), C),
    file("JSON", '{"name": "tiny", "train": null}', C),
    file("YAML", "name: tiny\ntrain:\n  batch_size: 3\n", C),
    file("an import that is missing", "import no_such_library\n" + GET.format("", "return Config()"), "line 1: ModuleNotFoundError: No module named 'no_such_library'"),
    file("an old name of a class", "from jaxrec.config import Dataset\n", "ImportError: cannot import name 'Dataset'"),
    file("get_config raises", GET.format("", "raise RuntimeError('my own')"), "line 5: RuntimeError: my own"),
    file("get_config raises without a text", GET.format("", "raise RuntimeError"), "line 5: RuntimeError"),
    file("get_config raises with many lines", GET.format("", "raise RuntimeError('one\\ntwo\\n\\nthree')"), "RuntimeError: one two three"),
    file("an assertion", GET.format("", "assert False, 'width'"), "line 5: AssertionError: width"),
    file("a division by zero", GET.format("", "return 1 / 0"), "line 5: ZeroDivisionError"),
    file("a misspelt field", GET.format("", "return Config(modle=Model())"), "unexpected keyword argument 'modle'"),
    file("a positional argument too many", GET.format("", "return Mix(1, 2, 3, 4, 5, 6)"), "line 5: TypeError"),
    file("sys.exit with a status", "import sys\n" + GET.format("", "sys.exit(3)"), C + "line 6: the config ended the program: SystemExit: 3"),
    file("sys.exit without a status", "import sys\nsys.exit()\n", C + "line 2: the config ended the program: SystemExit"),
    file("sys.exit with 0", "import sys\n" + GET.format("", "sys.exit(0)"), "the config ended the program: SystemExit: 0"),
    file("sys.exit with a text", "import sys\n" + GET.format("", "sys.exit('no data')"), "the config ended the program: SystemExit: no data"),
    file("exit()", GET.format("", "exit(1)"), "the config ended the program: SystemExit: 1"),
    file("argparse in a config", "import argparse\n" + GET.format("", "argparse.ArgumentParser(exit_on_error=True).parse_args(['--x'])"), "the config ended the program: SystemExit: 2"),
    file("endless recursion", GET.format("", "return get_config()"), "RecursionError"),
    file("KeyError of a variable that is not set", "import os\n" + GET.format("", "return os.environ['NO_SUCH_VARIABLE']"), "KeyError: 'NO_SUCH_VARIABLE'"),
    file("returns None", GET.format("", "pass"), "get_config() gave a NoneType, not a jaxrec.config.Config"),
    file("returns a dict", GET.format("", "return {'name': 'x'}"), "get_config() gave a dict, not a jaxrec.config.Config"),
    file("returns the class", GET.format("", "return Config"), "get_config() gave a type, not a jaxrec.config.Config"),
    file("returns a part", GET.format("", "return Model()"), "get_config() gave a Model, not a jaxrec.config.Config"),
    file("returns a list", GET.format("", "return [Config()]"), "get_config() gave a list, not a jaxrec.config.Config"),
    file("a generator", GET.format("", "yield Config()"), "get_config() gave a generator, not a jaxrec.config.Config"),
    file("needs two arguments", GET.format("a, b", "return Config()"), C),
    file("needs an argument", GET.format("a", "return Config()"), "missing 1 required positional argument: 'a'"),
    file("a warning that is an error", "import warnings\n" + GET.format("", "warnings.simplefilter('error'); warnings.warn('beware')"), "line 6: UserWarning: beware"),
    Case("a config that prints, on a wrong value", config("print('hello')", "c.model.width = 13"), ("train", "--config", "configs2/c.py", "--workdir", "w"), "model.width=13 must divide by num_heads=2"),
    Case("a folder", lambda f, s: (f / "c.py").mkdir(), ("train", "--config", "c.py"), "no file c.py"),
    Case("a broken link to a config", lambda f, s: (f / "c.py").symlink_to("gone.py"), ("train", "--config", "c.py"), "no file c.py"),
    Case("a pipe", lambda f, s: os.mkfifo(f / "c.py"), ("train", "--config", "c.py"), "no file c.py"),
    line("an empty name", "train", "--config=", text="--config is empty"),
    line("a colon alone", "train", "--config=:", text="--config=:"),
    line("an argument without a file", "train", "--config=:small", text="--config=:small"),
    line("two colons", "train", f"--config={TINY}:a:b", text="takes no argument"),
    line("an unknown argument", "train", f"--config={Path(TINY).with_name('smoe.py')}:huge", text="huge"),
    line("an empty argument", "train", f"--config={TINY}:", text="takes no argument"),
    line("a name near a config's", "train", "--config=smoee", text="did you mean smoe"),
    line("a file near another", "train", f"--config={TINY[:-3]}s.py", text="did you mean"),
    line("a module's name", "train", "--config=configs.tiny", text="no file configs.tiny"),
    line("a name with NUL", "train", "--config=a\0b", text="--config=a"),
    line("a very long name", "train", f"--config={'x' * 5000}.py", text="no file"),
    line("a home folder that does not exist", "train", "--config=~nobody/c.py", text="no file"),
    line("a config in a bucket", "train", "--config=gs://b/c.py", text="gs://b/c.py: no file of this machine"),
    line("a study where a config is needed", "train", f"--config={STUDY}", text="gave a Study, not a jaxrec.config.Config"),
    line("a config where a study is needed", "study", f"--config={TINY}", "--workdir=s", text="gave a Config, not a jaxrec.studies.declared.study.Study"),
]  # fmt: skip

TREE_CASES = [
    edit("a misspelt attribute", "c.train.batchsize = 3", text="did you mean batch_size?"),
    edit("a misspelt part", "c.modle = Model()", text="did you mean model?"),
    edit("None for a number", "c.train.batch_size = None", text="train.batch_size=None must be a whole number"),
    edit("text for a number", "c.train.batch_size = '64'", text="train.batch_size='64' must be a whole number"),
    edit("a float for a whole number", "c.train.batch_size = 64.0", text="train.batch_size=64.0 must be a whole number"),
    edit("True for a number", "c.train.batch_size = True", text="train.batch_size=True must be a whole number"),
    edit("1 for True", "c.objective.personalised = 1", text="objective.personalised=1 must be True or False"),
    edit("NaN", "c.optimizer.learning_rate = float('nan')", text="optimizer.learning_rate=nan must be a finite number"),
    edit("infinity", "c.optimizer.learning_rate = float('inf')", text="optimizer.learning_rate=inf must be a finite number"),
    edit("a NumPy number", "import numpy; c.train.batch_size = numpy.int64(64)", text="train.batch_size"),
    edit("a list for a tuple", "c.model.head_hidden = [16]", text="model.head_hidden=[16] must be a tuple"),
    edit("one expert without a tuple", "c.model.experts = Expert()", text="must be a tuple, each an Expert"),
    edit("a tuple of other things", "c.model.experts = (1,)", text="model.experts[0]=1 must be an Expert"),
    edit("no expert", "c.model.experts = ()", text="model.experts=() must hold at least one Expert"),
    edit("a part of another class", "c.model = Data()", text="must be a Model"),
    edit("one signal without a tuple", "c.signals = Signal('thumb', column='x')", text="must be a tuple, each a Signal"),
    edit("a signal named as the plays", "c.signals = (Signal('play', column='x'),)", text="signals[0].name='play' must not be 'play'"),
    edit("a signal of the simulator", "c.signals = (Signal('thumb', 'sign', column='x'),)", text="signals[0].column='x' must be empty: a Simulator source generates its signals"),
    edit("text of users", "c.features += (Feature('bio', 'text', 'user', 4),)", text="features[11].where='user' must be title or context with kind='text': names of titles, and queries"),
    edit("text of one column", "c.features += (Feature('query', 'text', 'context', 1),)", text="features[11].width=1 must be at least 2: the last column is presence"),
    edit("texts of two widths", "c.features += (Feature('name', 'text', 'title', 4), Feature('query', 'text', 'context', 6))", text="features[12].width=6 must be 4, as of feature 'name': all text features share one table"),
    edit("a title of users", "c.features += (Feature('best', 'title', 'user', 4),)", text="features[11].where='user' must be context with kind='title': the title of a page"),
    edit("a title of one column", "c.features += (Feature('page', 'title', 'context', 1),)", text="features[11].width=1 must be at least 2: the last column is presence"),
    edit("an unknown rule for missing contexts", "c.features[6].impute = 'mean'", text="features[6].impute='mean' must be one of null, most_frequent, name_of:<feature>"),
    edit("a rule for missing users", "c.features[4].impute = 'most_frequent'", text="features[4].impute='most_frequent' must be 'null' unless where='context'"),
    edit("the most frequent text", "c.features += (Feature('query', 'text', 'context', 4, impute='most_frequent'),)", text="features[11].impute='most_frequent' must be 'null' unless kind='category'"),
    edit("the name of a device", "c.features += (Feature('query', 'text', 'context', 4, impute='name_of:device'), Feature('page', 'title', 'context', 4))", text="features[11].impute='device' must be one of page"),
    edit("the name of no title", "c.features += (Feature('query', 'text', 'context', 4, impute='name_of:page'),)", text="features[11].impute='name_of:page' must be 'null': no feature has kind='title' and where='context'"),
    edit("the name of titles without names", "c.features += (Feature('query', 'text', 'context', 4, impute='name_of:page'), Feature('page', 'title', 'context', 4))", text="features[11].impute='name_of:page' must be 'null': no feature of titles has kind='text'"),
    edit("titles that name their own category", "c.features[6].impute = 'name_of:hour'", text="features[6].impute='name_of:hour' must be 'null' unless kind='text': names are text"),
    edit("a page of titles that the source lacks", "c.features += (Feature('source', 'title', 'context', 4),)", text="feature source: no such context column; the source gives: device, hour"),
    value("source.search", "1.5", "source.search=1.5 is not within 0 to 1"),
    edit("more plays than all from canvases", "c.source.search, c.source.similar = 0.7, 0.6", text="source.search=0.7 and source.similar=0.6 must add to at most 1"),
    edit("matching titles without queries", "c.data.matching = 8", text="data.matching=8 must be 0: no feature has kind='text' and where='context' (queries)"),
    edit("matching titles that are not stored", "c.sampling.matching = 4", text="sampling.matching=4 must be in [0, 0], with data.matching=0"),
    value("data.matching", "-1", "data.matching=-1 must be at least 0"),
    edit("more matching negatives than drawn ones", "c.features += (Feature('name', 'text', 'title', 4), Feature('query', 'text', 'context', 4)); c.data.matching = c.sampling.matching = 20", text="sampling.matching=20 must be at most 14, the negatives that are not hard"),
    edit("sequences without a history", "c.task.name = 'next_item'; c.data.num_targets = 1; c.features = c.features[:4]; c.model.reads_history = False", text="model.reads_history=False must be True with rows of sequences, which are histories"),
    edit("the rank of no cross layer", "c.model.cross_rank = 4", text="model.cross_rank=4 must be 0 with model.cross=0: there is no cross layer"),
    value("model.cross_rank", "-1", "model.cross_rank=-1 must be at least 0"),
    edit("cross layers below 0", "c.model.cross = -1", text="model.cross=-1 must be at least 0"),
    edit("cross layers of a trunk", "c.model.cross = 2; c.model.trunk = 'mmoe'", text="model.cross=2 must be 0 with model.trunk='mmoe': heads of a trunk read its experts alone"),
    edit("a mixture of an id alone", "c.model.entity = 'mixed'; c.model.features = ('title_id', 'segment')", text="model.entity='mixed' must be concat unless the model reads title_id and another title feature"),
    edit("masked ids without metadata", "c.model.cold_masking_new = 0.5; c.model.features = ('title_id',)", text="model.cold_masking_new=0.5 must be 0 unless the model reads title_id and another title feature"),
    edit("new titles masked less", "c.model.cold_masking = 0.5", text="model.cold_masking=0.5 must be at most model.cold_masking_new=0: new titles are masked most"),
    edit("a probability of masking above 1", "c.model.cold_masking_new = 1.5", text="model.cold_masking_new=1.5 must be within 0 to 1"),
    edit("a launch day of another kind", "c.model.entity = 'mixed'; c.model.launch_day = 'form'", text="model.launch_day='form' must be a title feature of kind number: runtime"),
    edit("a launch day that is not read", "c.model.launch_day = 'runtime'", text="model.launch_day='runtime' must be empty with model.entity='concat', which reads no age"),
    edit("a taste of one country", "c.source.country_taste = 1.0", text="source.country_taste=1.0 must be 0 with source.countries=1"),
    edit("too many launches", "c.source.launches = 0.95", text="source.launches=0.95 is not within 0 to 0.9"),
    edit("an interaction of no signal", "c.signals = (Signal('thumb', 'sign'),)", "c.features += (Feature('thumbs', 'number', 'interaction', 4),)", text="must be one of completion, sessions, age, thumb; did you mean thumb?"),
    edit("an interaction of text", "c.source = Tables('l.csv', 't.csv'); c.signals = (Signal('comment', 'text', column='x'),)", "c.features += (Feature('comment', 'number', 'interaction', 4),)", text="must not be a signal of text: an interaction is a number"),
    edit("an interaction of a search", "c.source = Tables('l.csv', 't.csv'); c.signals = (Signal('search', about='user', column='x'),)", "c.features += (Feature('search', 'number', 'interaction', 4),)", text="must not be a signal about 'user': the positions of a history are titles"),
    edit("exposures without their signal", "c.data.examples = 'impressions'", text="data.examples='impressions' must be 'requests' unless signals hold Signal('impression') about titles"),
    edit("a served mix without served titles", "c.sampling.mix = Mix(0.0, 0.0, 0.0, 0.0, 1.0)", text="data.served=0 must be at least 20, which sampling.mix takes"),
    edit("served titles without impressions", "c.data.served = 20", "c.sampling.mix = Mix(0.0, 0.0, 0.0, 0.0, 1.0)", text="data.served=20 must be 0 unless signals hold Signal('impression') about titles"),
    edit("served titles of a search", "c.signals = (Signal('impression', about='user', table='x.csv'),)", "c.data.served = 20", text="signals[0]"),
    edit("served titles of exposures", "c.signals = (Signal('impression'),)", "c.data.served = 20", "c.data.num_targets = 1", "c.evaluate.next_k = (1,)", "c.data.examples = 'impressions'", "c.objective.ctr = c.objective.ranking = 0.0", text="data.served=20 must be 0 with data.examples='impressions'"),
    value("data.session", "6", text="data.session=6 must be 0 or a multiple of 4"),
    value("data.session", "-4", text="data.session=-4 must be 0 or a multiple of 4"),
    value("data.session_gap_minutes", "-5.0", text="data.session_gap_minutes=-5.0 must be above 0"),
    value("data.session_gap_minutes", "5.0", text="data.session_gap_minutes=5.0 must be 30 with data.session=0: there are no sessions"),
    edit("sessions of sequences", "c.features = c.features[:1]; c.model.features = (); c.task.name = 'next_item'; c.data.num_targets, c.model.head, c.model.experts, c.evaluate.next_k = 1, 'dot', (Expert(4, 1, 2, 1.0, 0.1, 'sasrec'),), (1,)", "c.data.session = 8", text="data.session=8 must be 0 where task.name is 'next_item'"),
    edit("sessions of exposures", "c.signals = (Signal('impression'),)", "c.data.session = 8", "c.data.num_targets = 1", "c.evaluate.next_k = (1,)", "c.data.examples = 'impressions'", "c.objective.ctr = c.objective.ranking = 0.0", text="data.session=8 must be 0 with data.examples='impressions'"),
    edit("a session expert without sessions", "c.model.experts += (Expert(8, 1, 2, 1.0, 0.1, 'session'),)", text="model.experts[2].encoder='session' must not be of a session with data.session=0: rows hold no sessions"),
    edit("a session expert of more events than are stored", "c.data.session = 8", "c.model.experts += (Expert(12, 1, 2, 1.0, 0.1, 'session'),)", text="model.experts[2].max_len=12 must be at most data.session=8"),
    edit("a session expert alone with a window beyond the history", "c.data.session = 12", "c.model.experts = (Expert(12, 1, 2, 1.0, 0.1, 'session'),)", text="model.experts[0].max_len=12 must be at most data.max_history=8 without an expert of the history"),
    edit("a session expert with candidates in the sequence", "c.data.session = 8; c.model.target_in_sequence = True", "c.model.experts += (Expert(8, 1, 2, 1.0, 0.1, 'session'),)", text="model.experts[2].encoder='session' must not be of a session with model.target_in_sequence=True"),
    edit("events of no signal", "c.data.session = 8", "c.model.experts += (Expert(8, 1, 2, 1.0, 0.1, 'session'),)", "c.sampling.session_events = ('thumb',)", text="sampling.session_events[0]='thumb' must be one of play"),
    edit("events that no expert reads", "c.data.session = 8", "c.sampling.session_events = ('play',)", text="sampling.session_events[0]='play' must be left out without an expert that reads sessions"),
    value("objective.intent", "-0.2", text="objective.intent=-0.2 must be at least 0"),
    edit("an intent of no category", "c.objective.intent = 0.2; c.model.intent_of = 'runtime'", text="model.intent_of='runtime' must be one of genres, form: objective.intent=0.2 needs categories of titles"),
    edit("an intent beside a head of its name", "c.objective.intent = 0.2", "c.labels = (Label('intent', 'completion'),)", "c.objective.heads = (Head('intent', 'intent'),)", text="objective.heads[0].name='intent'"),
    value("start.low_rank", "2", text="start.low_rank=2 must be 0 with an empty start.workdir"),
    value("start.low_rank", "-1", text="start.low_rank=-1 must be at least 0"),
    value("objective.distil", "1.0", text="objective.distil=1.0 must be 0 with an empty start.workdir: there is no such model"),
    value("model.output_maps", "true", text="model.output_maps=True must be False unless model.head is 'dot'"),
    value("data.served", "-1", text="data.served=-1 must be at least 0"),
    value("data.served", "5000", text="data.served=5000 must be at most 4,096"),
    value("data.request_window_seconds", "60", text="data.request_window_seconds=60 must be 0 with data.served=0"),
    value("data.request_window_seconds", "-1", text="data.request_window_seconds=-1 must be at least 0"),
    value("sampling.mix.served", "0.5", text="sampling.mix"),
    value("source.test_impressions_logged", "1.5", text="source.test_impressions_logged=1.5 is not within 0 to 1"),
    value("data.examples", "sessions", text="data.examples='sessions' must be one of requests, impressions"),
    value("data.fold", "6/5", text="data.fold='6/5' must be a fold of 2 to 1,000, from '1/5' to '5/5' of five, or empty"),
    value("data.fold", "1/5", text="source.test_only_users=60 must be 0 with data.fold: a user is tested in one fold"),
    edit("a signal of no known value", "c.signals = (Signal('a', 'often', column='x'),)", text="signals[0].value='often' must be one of event, "),
    edit("a signal of an unknown column", "from pathlib import Path; Path('l.csv').write_text('user_id,title_id,time\\nu,t,1600000000000\\n')", "c.features = c.features[:1]; c.model.features = (); c.task.name = 'next_item'; c.data.num_targets, c.model.head, c.model.experts, c.evaluate.next_k = 1, 'dot', (Expert(4, 1, 2, 1.0, 0.1, 'sasrec'),), (1,)", "c.source = Tables('l.csv', columns=Columns(seconds='', runtime='')); c.signals = (Signal('a', column='clicked'),)", text="l.csv: no column 'clicked' (signals[0].column); columns: user_id, title_id, time"),
    edit("a dict for a part", "c.train = {'batch_size': 3}", text="must be a Train"),
    edit("a class for a part", "c.train = Train", text="must be a Train"),
    edit("None for a part", "c.data = None", text="data=None must be a Data"),
    edit("an outcome as a feature", "c.source = KuaiRand('.')", "c.features += (Feature('long_view', 'category', 'context', 3),)", text="the feature 'long_view' left out: it is an outcome (by the columns of a KuaiRand source)"),
    edit("a feature of after", "c.features[6].available = 'after'", text="features[6].available='after' must be request: 'device' is known after the request"),
    edit("an early label of no label", "c.offline = True", "c.features += (Feature('x', 'number', 'label', 3, available='after'),)", text="features[11].where='label' must not be label: the config declares none"),
    edit("an early label online", "c.labels = (Label('x', 'happened'),)", "c.features += (Feature('x', 'number', 'label', 3, available='after'),)", text="features[11].available='after' must be request: 'x' is known after the request"),
    edit("an early label as a feature of the request", "c.offline = True; c.labels = (Label('x', 'happened'),)", "c.features += (Feature('x', 'number', 'label', 3),)", text="features[11].available='request' must be after in a config with offline=True: a label is an outcome"),
    edit("an early label in a ranking", "c.offline = True; c.labels = (Label('x', 'happened'),)", "c.features += (Feature('x', 'number', 'label', 3, available='after'),)", text="objective.ctr=1.0 must be 0 with features of where='label'"),
    edit("a feature twice", "c.features += (c.features[0],)", text="must be unlike the features before it"),
    edit("a feature without a name", "c.features[0].name = ''", text="features[0].name='' must not be empty"),
    edit("a feature of an unknown kind", "c.features[0].kind = 'categry'", text="features[0].kind='categry' must be one of"),
    edit("a feature of an unknown place", "c.features[0].where = 'item'", text="features[0].where='item' must be one of"),
    edit("no feature", "c.features = ()", text="features=() must hold at least one of where='title'"),
    edit("a list of a user", "c.features += (Feature('x', 'categories', 'user', 3, 2),)", text="must be title: only titles have lists"),
    edit("a whole number of 400 digits", "c.train.seed = 10 ** 400", text="train.seed"),
    edit("a negative whole number of 400 digits", "c.train.seed = -10 ** 400", text="train.seed"),
    edit("a float of 400 digits", "c.optimizer.learning_rate = 10 ** 400", text="optimizer.learning_rate"),
    edit("a text of a megabyte", "c.name = 'x' * 1_000_000", text="at most 200: it names a directory"),
    edit("a name that climbs", "c.name = '../../x'", text="name='../../x' must be letters, digits"),
    edit("an empty name of a run", "c.name = ''", text="name='' must be letters"),
    edit("a name with a newline", "c.name = 'a\\nb'", text="name='a\\nb' must be"),
    edit("a loop of parts", "c.train.seed = c", text="train.seed"),
]  # fmt: skip

VALUE_CASES = [
    value("train.batchsize", "3", "did you mean batch_size?"),
    value("trian.batch_size", "3", "did you mean train?"),
    value("train", "3", "train cannot be set as a whole"),
    value("train.batch_size.x", "3", "train.batch_size.x does not exist"),
    value("train.batch_size[0]", "3", "train.batch_size"),
    value("train.batch_size", "", "train.batch_size=: must be a whole number"),
    value("train.batch_size", "64.0", "must be a whole number"),
    value("train.batch_size", "6 4", "must be a whole number"),
    value("train.batch_size", "1e3", "must be a whole number"),
    value("train.batch_size", "0x40", "must be a whole number"),
    value("train.batch_size", "-1", "train.batch_size=-1 must be at least 1"),
    value("train.batch_size", "0", "train.batch_size=0 must be at least 1"),
    value("train.batch_size", "99999999999", "train.batch_size=99999999999 must be at most"),
    value("train.batch_size", "9" * 5000, "train.batch_size"),
    value("train.patience", "-1", "train.patience=-1 must be at least 0"),
    value("train.microbatch_size", "-1", "train.microbatch_size=-1 must be at least 0"),
    value("train.steps_per_call", "-1", "train.steps_per_call=-1 must be at least 0"),
    value("train.duration", "20", "train.duration='20' must be a whole number of epochs or steps"),
    value("train.duration", "0 epochs", "train.duration='0 epochs' must be"),
    value("train.duration", "2.5 epochs", "train.duration='2.5 epochs' must be"),
    value("train.duration", "two epochs", "train.duration='two epochs' must be"),
    value("train.duration", "20 epoks", "train.duration='20 epoks' must be"),
    value("train.duration", "9999999999999 steps", "must be at most 1,000,000,000"),
    value("train.log_seconds", "0", "train.log_seconds=0.0 must be above 0"),
    value("train.checkpoint_every_seconds", "-3", "train.checkpoint_every_seconds=-3.0 must be above 0"),
    value("train.grace_seconds", "inf", "train.grace_seconds=inf must be a finite number"),
    value("train.preemption_exit_code", "256", "train.preemption_exit_code=256 must be in [0, 255]"),
    value("train.seed", "-1", "train.seed=-1 must be in [0, 2**32)"),
    value("train.on_nonfinite", "ignore", "train.on_nonfinite='ignore' must be one of stop, skip"),
    value("train.prefetch", "100000", "train.prefetch=100000 must be at most"),
    value("start.which", "newest", "start.which='newest' must be one of best, last"),
    value("start.take", "gate/*", "start.take=('gate/*',) must be ('*',) with an empty start.workdir"),
    value("start.anchor", "-1", "start.anchor=-1.0 must be at least 0"),
    value("start.noise", "nan", "start.noise=nan must be a finite number"),
    value("optimizer.learning_rate", "0", "optimizer.learning_rate=0.0 must be above 0"),
    value("optimizer.learning_rate", "1,5", "must be a number"),
    value("optimizer.learning_rate", "fast", "must be a number"),
    value("optimizer.learning_rate", "nan", "optimizer.learning_rate=nan must be a finite"),
    value("optimizer.learning_rate", "1e400", "optimizer.learning_rate=inf must be a finite"),
    value("optimizer.beta2", "1", "optimizer.beta2=1.0 must be in [0, 1)"),
    value("optimizer.ema_decay", "1", "optimizer.ema_decay=1.0 must be in [0, 1)"),
    value("optimizer.plateau_factor", "0", "optimizer.plateau_factor=0.0 must be in (0, 1]"),
    value("optimizer.weight_decay_mode", "adamw", "optimizer.weight_decay_mode='adamw' must be one of decoupled, coupled"),
    value("optimizer.warmup_steps", "-1", "optimizer.warmup_steps=-1 must be at least 0"),
    value("model.width", "0", "model.width=0 must be at least 1"),
    value("model.width", "13", "model.width=13 must divide by num_heads=2"),
    value("model.width", "1000000000", "model.width=1000000000 must be at most"),
    value("model.experts[5].max_len", "3", "model.experts[5] does not exist; the length of model.experts is 2"),
    value("model.experts[-1].max_len", "3", "model.experts"),
    value("model.experts[0].max_len", "9", "model.experts[0].max_len=9 must be at most data.max_history=8"),
    value("model.experts[0].encoder", "lstm", "model.experts[0].encoder='lstm' must be one of"),
    value("model.experts[0].encoder", "gru4rek", "did you mean gru4rec?"),
    value("model.experts[0].num_layers", "100000", "model.experts[0].num_layers=100000 must be at most"),
    value("model.experts[0].dropout", "1", "model.experts[0].dropout=1.0 must be in [0, 1)"),
    value("model.experts", "()", "model.experts cannot be set as a whole"),
    value("model.dropout", "-0.1", "model.dropout=-0.1 must be in [0, 1)"),
    value("model.dtype", "float16", "model.dtype='float16' must be one of float32, bfloat16"),
    value("model.head", "mlp", "model.head='mlp' must be one of"),
    value("model.head", "dot", "model.head='dot' must be matcher unless"),
    value("model.head_hidden", "16,x", "model.head_hidden[0]='16,x' must be a whole number"),
    value("model.head_hidden", "0", "model.head_hidden[0]=0 must be at least 1"),
    value("model.features", "gneres", "model.features[0]='gneres' must be one of"),
    value("model.gate.target_entropy", "5", "model.gate.target_entropy=5.0 must be in [0, 0.693)"),
    value("model.gate.temperature", "0", "model.gate.temperature=0.0 must be above 0"),
    value("model.position", "relative", "model.position='relative' must be one of"),
    value("model.attention_impl", "flash", "model.attention_impl='flash' must be one of"),
    value("model.cosine", "maybe", "must be true or false"),
    value("model.cosine", "true", "model.cosine=True must be False where task.name is 'ranking'"),
    value("model.retrieval_dim", "8", "objective.retrieval=0.0 must be above 0"),
    value("objective.ctr", "-1", "objective.ctr=-1.0 must be at least 0"),
    value("objective.ranking_loss", "hing", "objective.ranking_loss='hing' must be one of"),
    value("objective.soft_negative", "2", "objective.soft_negative=2.0 must be in [0, 1]"),
    value("objective.retrieval", "1", "objective.retrieval=1.0 must be 0 with model.retrieval_dim=0"),
    value("evaluate.ranking_head", "dot", "evaluate.ranking_head='dot' must be auto, or a head with a weight or a blend: ctr"),
    value("evaluate.next_k", "0", "evaluate.next_k[0]=0 must be in 1..3"),
    value("evaluate.next_k", "1,1", "evaluate.next_k=(1, 1) must hold at least one number, each once"),
    value("evaluate.next_k", "()", "evaluate.next_k"),
    value("evaluate.batch_size", "0", "evaluate.batch_size=0 must be at least 1"),
    value("evaluate.seen", "none", "evaluate.seen='none' must be one of all, stored, kept"),
    value("evaluate.report_users", "-1", "evaluate.report_users=-1 must be at least 0"),
    value("sampling.mix.hard", "0.9", "sampling.mix=(0.9, 0.4, 0.3, 0.0, 0.0) must add to 1"),
    value("sampling.mix.hard", "-1", "sampling.mix.hard=-1.0 must be in [0, 1]"),
    value("sampling.negatives", "21", "must give a whole count of 21 negatives"),
    value("sampling.negatives", "10000", "must be at least"),
    value("sampling.next_k", "4", "sampling.next_k=4 must be at most 3"),
    value("sampling.context_dropout", "2", "sampling.context_dropout=2.0 must be in [0, 1]"),
    edit("hidden contexts without contexts", "c.features = tuple(f for f in c.features if f.where != 'context')", "c.sampling.context_dropout = 0.5", text="sampling.context_dropout=0.5 must be 0 without context features"),
    value("sampling.id_dropout", "2", "sampling.id_dropout=2.0 must be in [0, 1]"),
    value("sampling.target_weights", "2.0,1.0", "sampling.target_weights[0]=2.0 must be in (0, 1]"),
    value("data.max_history", "10", "data.max_history=10 must be a multiple of 4"),
    value("data.max_history", "-4", "data.max_history=-4 must be a multiple of 4, at least 4"),
    value("data.hard", "3", "data.hard=3 must be a multiple of 4"),
    value("data.negatives", "7", "data.negatives=7 must give the enabled list"),
    value("data.train_share", "1", "data.validation_share=0.1 must leave a share of users for the test"),
    value("data.train_share", "0", "data.train_share=0.0 must be above 0"),
    value("data.validation_share", "1.5", "data.validation_share=1.5 must leave a share"),
    value("data.split", "user", "data.split='user' must be one of users, last, time"),
    value("data.split", "time", "data.validation_from='' must be a date, as '2024-01-31'"),
    value("data.test_from", "2024-01-01", "data.test_from='2024-01-01' must be empty unless split is 'time'"),
    value("data.earliest", "01.02.2003", "data.earliest='01.02.2003' must be a date"),
    value("data.earliest", "2101-01-01", "data.earliest='2101-01-01' must be before latest"),
    value("data.abandon_threshold", "5", "data.abandon_threshold=5.0 must be in [0, 1]"),
    value("data.max_invalid_fraction", "50%", "must be a number"),
    value("data.partitions", "0", "data.partitions=0 must be at least 1"),
    value("data.workers", "-2", "data.workers=-2 must be at least 0"),
    value("data.directory", "http://x/y", "data.directory=http://x/y: http:// is not supported"),
    value("data.directory", "gs://", "data.directory=gs://: the bucket name is empty"),
    value("data.targets", "all", "data.targets='all' must be one of new, any"),
    value("source.users", "-1", "source.users=-1 is not within 0"),
    value("source.titles", "0", "source.titles=0 is not within 20"),
    value("source.slate", "100000", "source.slate=100000 is not within 2"),
    value("source.interactions", "log.csv", "source.interactions does not exist"),
    value("task.name", "rank", "task.name='rank' must be one of"),
    value("task.name", "next_item", "must"),
    value("name", "a/b", "name='a/b' must be letters, digits"),
    value("name", "-x", "name='-x' must be letters, digits"),
    value("", "3", "--config. is not a key"),
    value("train..batch_size", "3", "is not a key"),
    value("train.batch_size[", "3", "is not a key"),
    value("__class__", "3", "__class__ does not exist"),
    value("train.__dict__", "3", "train.__dict__ does not exist"),
]  # fmt: skip

POLICY = str(Path(__file__).resolve().parents[2] / "configs" / "policy.py")


def policy(argument: str, *edits: str, text: str) -> Case:
    """Return a case of edits of a config of configs/policy.py, as key=value."""
    flags = [f"--config.{edit}" for edit in edits]
    name = f"policy {argument} with {', '.join(edits)}"
    return Case(name, nothing, ("train", "--config", f"{POLICY}:{argument}", "--workdir", "w", *flags), text)


POLICY_CASES = [
    policy("tiny", "post.objective=dqo", text="post.objective='dqo' must be one of bc, reward, exponential"),
    policy("asft", "post.beta=0", text="post.beta=0.0 must be a finite number above 0"),
    policy("asft", "post.clip=-2", text="post.clip=-2.0 must be a finite number above 0"),
    policy("asft", "post.reward=joy", text="post.reward='joy' must be one of stars"),
    policy("asft", "post.source=ensemble", text="post.reward_models=0 must be at least 2"),
    policy(
        "asft",
        "post.baseline=mean",
        text="post.baseline='mean' must be one of zero, user, title, value, soft",
    ),
    policy("asft", "evaluate.checkpoint=best", text="evaluate.checkpoint='best' must be 'last'"),
    policy("asft", "task.name=next_item", text="post.objective='exponential' must be 'bc'"),
    policy("asft", "data.targets=any", text="data.targets='any' must be 'new' or 'every'"),
    policy("ppo", "start.workdir=", text="start.workdir='' must be the run of a policy with post.objective="),
    policy("dpo", "post.beta=-1", text="post.beta=-1.0 must be a finite number above 0"),
    policy("ppo", "post.source=observed", text="post.source='observed' must be one of model, ensemble"),
    policy("ppo", "post.kappa=-1", text="post.kappa=-1.0 must be finite and at least 0"),
    policy("dpo", "post.rest=-1", text="post.rest=-1.0 must be finite and at least 0"),
    policy("dpo", "post.pair_users=0", text="post.pair_users=0.0 must be above 0 and at most 1"),
    policy("dpo", "post.candidates=worst", text="post.candidates='worst' must be one of drawn, best"),
    policy(
        "asft",
        "post.rest=1",
        text="post.rest=1.0 must be 0.0 with post.objective='exponential': only dpo, ipo read it",
    ),
    policy("grpo", "post.samples=1", text="post.samples=1 must be at least 2"),
    policy("tiny", "data.validation_truth_queries=-1", text="data.validation_truth_queries=-1 must be at l"),
    policy("wbc", "data.served=0", text="data.served=0 must be above 0 with post.objective='wbc'"),
    policy("wbc", "evaluate.checkpoint=best", text="evaluate.checkpoint='best' must be 'last'"),
    policy("wbc", "post.clip=5", text="post.clip=5.0 must be 20.0 with post.objective='wbc'"),
    policy(
        "small", "data.served=20", text="data.served=20 must be 0 unless signals hold Signal('impression')"
    ),
    policy("bc", "next_item.loss=bce", text="next_item.loss='bce' must be 'softmax'"),
    policy("smol", text="configs/policy.py:smol: the argument must be one of small, composite, kuairand, t"),
]

ONEREC = str(Path(POLICY).with_name("onerec.py"))


def codes(command: str, argument: str, *edits: str, text: str, make: Callable = nothing) -> Case:
    """Return a case of edits of a config of configs/onerec.py, as key=value."""
    flags = [f"--config.{edit}" for edit in edits]
    name = f"{command} of codes {argument} with {', '.join(edits)}"
    return Case(name, make, (command, "--config", f"{ONEREC}:{argument}", "--workdir", "w", *flags), text)


CODES_CASES = [
    codes("tokenise", "tiny", "codes.levels=1", text="codes.size=8 must give at least as many paths size^levels as there are titles, 60, not 8"),
    codes("train", "tiny", "codes.beam=4097", text="codes.beam=4097 must be at most 4,096"),
    codes("train", "tiny", "codes.places=9", text="codes.places=9 must be at most model.experts[0].max_len=8"),
    codes("train", "tiny", "codes.titles=9", text="codes.titles=9 must be at most model.experts[0].max_len=8"),
    codes("train", "tiny", "codes.titles=5", "codes.gap_hours=0", text="codes.gap_hours=0.0 must be a finite number above 0"),
    codes("train", "tiny", "codes.titles=5", "codes.reward=stars", text="codes.reward='stars' must be empty: the config declares no reward"),
    codes("train", "tiny", "codes.size=1", text="codes.size=1 must be at least 2"),
    codes("train", "tiny", "codes.vectors=text", text="codes.vectors='text' must be one of model, metadata, random"),
    codes("train", "tiny", "next_item.loss=bce", text="next_item.loss='bce' must be 'softmax' with task.name='generative'"),
    codes("train", "title", "codes.beam=8", text="codes.beam=8 must be 32 with task.name='next_item': codes are of the task 'generative'"),
    codes("train", "tiny", "post.objective=dpo", text="post.candidates='drawn' must be 'best' with task.name='generative' and post.objective='dpo': a pair is of beams"),
    codes("train", "tiny", "post.objective=dpo", "codes.titles=5", text="codes.titles=5 must be 1 with task.name='generative' and post.objective='dpo'"),
    codes("train", "tiny", "post.objective=reward", text="post.objective='reward' must be 'bc' with task.name='generative'"),
    codes("train", "tiny", text="codes.path='' must be the folder that python -m jaxrec.tokenise wrote"),
    codes("train", "tiny", "codes.path=none", text="codes.path=none: no codes.json; give a folder"),
    codes("tokenise", "tiny", text="start.workdir='' must be the workdir of the run whose title vectors are coded"),
    codes("tokenise", "title", text="task.name='next_item' must be 'generative': other tasks have no codes without a feature of kind 'codes'"),
    codes("train", "coded_title", text="codes.path='' must be the folder that python -m jaxrec.tokenise wrote"),
    codes("train", "coded_title", "codes.beam=8", text="codes.beam=8 must be 32 with task.name='next_item'"),
    codes("train", "coded_title", "codes.levels=7", text="codes.levels=7 must give at most 16,777,216 paths size^levels with a feature of kind 'codes'"),
    codes("tokenise", "coded_title", "codes.levels=2", text="codes.size=16 must give at least as many paths size^levels as there are titles, 1,000, not 256"),
    Case("tokenise that extends a folder without codes", nothing, ("tokenise", "--config", f"{ONEREC}:coded_title", "--config.codes.vectors=random", "--workdir", "w", "--extends", "none"), "extends=none: no codes.json; give a folder that python -m jaxrec.tokenise wrote"),
]  # fmt: skip

CASES = [*FILE_CASES, *TREE_CASES, *VALUE_CASES, *POLICY_CASES, *CODES_CASES]

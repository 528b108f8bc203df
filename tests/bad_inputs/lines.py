"""Door "configs and flags": command lines of all commands."""

from tests.bad_inputs.case import Case
from tests.bad_inputs.configs import ROLLING, STUDY, TINY, line
from tests.bad_inputs.configs import text as file_of

W = "--checkpoint=nowhere"


def train(name: str, *flags: str, text: str, status: int = 2) -> Case:
    return line(name, "train", f"--config={TINY}", *flags, text=text, status=status)


def chain(name: str, text: str, edits: dict[str, str] | None = None, **after: str) -> Case:
    """Return a case of a study whose rows start from other rows; the last row has the edits."""
    rows = "".join(
        f"        Row({row!r}, {(edits or {}) if row == [*after][-1] else {}}, {{'4': ''}}, after={before!r}),\n"
        for row, before in after.items()
    )
    content = (
        "from configs import tiny\nfrom jaxrec.studies.plan import ResultTable, Row, Study\n\n\n"
        f"def get_config():\n    rows = (\n{rows}    )\n"
        "    return Study('s', tiny.get_config(), lambda base: rows, (ResultTable('4', 'T'),), ('4',))\n"
    )
    return Case(name, file_of(content), ("study", "--config", "c.py", "--workdir", "s"), text)


CASES = [
    # train
    line("train alone", "train", text="--config is missing; give a config file"),
    line("train: an override alone", "train", "--config.train.batch_size=3", text="--config is missing"),
    line("train: --config as the last word", "train", "--config", text="config"),
    train("an unknown flag", "--workdri=x", text="Unknown command line flag 'workdri'. Did you mean: workdir"),
    train("a stray word", "stray", text="'stray' is no flag; --help lists the flags"),
    train("a word of a flag that has a value already", "--workdir=w", "x", text="'x' is no flag"),
    train("an override after --", "--", "--config.train.batch_size=0", text="is no flag"),
    train("a key without the config prefix", "--train.batch_size=3", text="Unknown command line flag 'train.batch_size'"),
    train("a value for a switch", "--dry_run=perhaps", text="dry_run"),
    train("two dashes and nothing", "--", "--", text="is no flag"),
    train("one dash", "-", text="is no flag"),
    train("an empty word", "", text="is no flag"),
    train("a number for a workdir of a bucket", "--workdir=s3://", text="s3://: the bucket name is empty"),
    train("an unknown scheme", "--workdir=ftp://a/b", text="ftp:// is not supported"),
    train("a start without checkpoints", "--config.start.workdir=nowhere", text="checkpoint nowhere/checkpoints: no such directory"),
    train("a start in an unknown place", "--config.start.workdir=abc://x", text="abc:// is not supported"),
    train("processes without a coordinator", "--processes=2", text="--processes=2 without --coordinator; allowed: all"),
    train("a coordinator alone", "--coordinator=localhost:1", text="--coordinator"),
    train("processes that are no number", "--processes=two", text="processes"),
    train("a process out of range", "--coordinator=localhost:1", "--processes=2", "--process=2", text="--process=2"),
    train("no process", "--coordinator=localhost:1", "--processes=0", "--process=0", text="--processes=0"),
    train("a negative process", "--coordinator=localhost:1", "--processes=2", "--process=-1", text="--process=-1"),
    train("a coordinator without a port", "--coordinator=localhost", "--processes=2", "--process=0", text="--coordinator=localhost"),
    train("hosts of an unknown kind", "--hosts=all", text="hosts"),
    line("config twice: the last counts", "train", f"--config={TINY}", "--config=none.py", text="no file none.py"),
    train("an override twice: the last counts", "--config.model.width=12", "--config.model.width=13", text="model.width=13 must divide"),
    train("an override with a blank in place of =", "--config.model.width", "13", text="model.width=13 must divide"),
    train("one dash in place of two", "-config.model.width=13", text="model.width=13 must divide"),
    train("dashes in place of underscores", "--config.train.batch-size=0", text="--config.train.batch-size is not a key; write a key such as --config.train.batch_size=512"),
    train("an override without a value", "--config.train.batch_size", text="train.batch_size"),
    train("noconfig of a number", "--noconfig.train.batch_size", text="train.batch_size"),
    train("a bracket that is a word", "--config.model.experts[x].max_len=3", text="is not a key"),
    train("beam's flags of another command", "--runner=beam", text="Unknown command line flag 'runner'"),
    # prepare
    line("prepare alone", "prepare", text="--config is missing"),
    line("prepare: interactions without --check", "prepare", "--interactions=x.csv", text="--interactions is allowed with --check only"),
    line("prepare: titles without --check", "prepare", f"--config={TINY}", "--titles=x.csv", text="--titles=x.csv: allowed with --check only"),
    line("prepare: a runner of another name", "prepare", f"--config={TINY}", "--runner=spark", text="runner"),
    line("prepare: beam's flags without beam", "prepare", f"--config={TINY}", "--beam_args=--x", text="--beam_args='--x': must be empty unless --runner is beam"),
    line("prepare: an output of an unknown scheme", "prepare", f"--config={TINY}", "--out=abc://x", text="abc:// is not supported"),
    line("prepare --check alone", "prepare", "--check", text="--config is missing"),
    line("prepare --check: a config and a log", "prepare", "--check", f"--config={TINY}", "--interactions=x.csv", text="--interactions=x.csv: must be empty with --config"),
    line("prepare --check: titles alone", "prepare", "--check", f"--config={TINY}", "--titles=x.csv", text="--titles=x.csv: allowed with --interactions only"),
    line("prepare --check: a config file of another suffix", "prepare", "--check", "--interactions=x.csv", "--write-config=x.json", text="--write_config=x.json: allowed: a file name that ends with .py"),
    line("prepare --check: a config file in no folder", "prepare", "--check", "--interactions=x.csv", "--write-config=no/x.py", text="--write_config=no/x.py: the folder no does not exist"),
    Case("prepare --check: a config file that exists", lambda f, s: (f / "x.py").touch(), ("prepare", "--check", "--interactions=x.csv", "--write-config=x.py"), "--write_config=x.py: the file exists"),
    line("prepare --check: an output", "prepare", "--check", "--interactions=x.csv", "--out=d", text="--out=d: must be empty with --check"),
    line("prepare --check: an empty log", "prepare", "--check", "--interactions=", text="--interactions is empty"),
    line("prepare --check: an override without a config", "prepare", "--check", "--interactions=x.csv", "--config.data.seed=3", text="--config is missing"),
    # evaluate
    line("evaluate alone", "evaluate", text="checkpoint"),
    line("evaluate: no such workdir", "evaluate", W, text="nowhere/checkpoints: no such directory"),
    line("evaluate: an empty workdir", "evaluate", "--checkpoint=", text="--checkpoint is empty"),
    line("evaluate: lists of another name", "evaluate", W, "--lists=all", text="--lists=all; allowed: enabled, disabled, served, catalogue"),
    line("evaluate: a delay below 0", "evaluate", W, "--delay-hours=0,-6", text="--delay-hours=0,-6; allowed: numbers of at least 0, such as 0,6,24,48, each once"),
    line("evaluate: a delay twice", "evaluate", W, "--delay-hours=6,6.0", text="--delay-hours=6,6.0; allowed: numbers of at least 0"),
    line("evaluate: a delay of no number", "evaluate", W, "--delay-hours=a day", text="--delay-hours=a day; allowed: numbers of at least 0"),
    line("evaluate: a session of another name", "evaluate", W, "--session=on,without", text="--session=without; allowed: on, off, shuffled"),
    line("evaluate: lists near another", "evaluate", W, "--lists=catalog", text="--lists=catalog; allowed: enabled, disabled, served, catalogue"),
    line("evaluate: the split of the training", "evaluate", W, "--split=train", text="--split=train; allowed: validation, test"),
    line("evaluate: which of another name", "evaluate", W, "--which=newest", text="which"),
    line("evaluate: next-k of 0", "evaluate", W, "--next-k=0", text="--next-k=0; allowed: whole numbers above 0"),
    line("evaluate: next-k of a word", "evaluate", W, "--next-k=one", text="--next-k=one; allowed: whole numbers"),
    line("evaluate: next-k of a negative number", "evaluate", W, "--next-k=-1", text="--next-k=-1; allowed: whole numbers"),
    line("evaluate: next-k of superscripts", "evaluate", W, "--next-k=²", text="--next-k=²; allowed: whole numbers"),
    line("evaluate: next-k twice the same", "evaluate", W, "--next-k=1,1", text="--next-k=1,1"),
    line("evaluate: retrieve a negative number", "evaluate", W, "--retrieve=-1", text="retrieve"),
    line("evaluate: retrieve without the catalogue", "evaluate", W, "--retrieve=10", text="--retrieve=10; allowed only with --lists=catalogue"),
    line("evaluate: diversity above 1", "evaluate", W, "--lists=catalogue", "--diversity=2", text="--diversity=2; allowed: 0 to 1"),
    line("evaluate: diversity that is NaN", "evaluate", W, "--lists=catalogue", "--diversity=nan", text="--diversity=nan; allowed: 0 to 1"),
    line("evaluate: a data folder of an unknown scheme", "evaluate", W, "--data=http://x", text="http:// is not supported"),
    line("evaluate: report users below 0", "evaluate", W, "--report_users=-1", text="report_users"),
    line("evaluate: seen of another word", "evaluate", W, "--seen=none", text="seen"),
    line("evaluate: a config, which it does not take", "evaluate", W, f"--config={TINY}", text="Unknown command line flag 'config'"),
    # compare
    line("compare alone", "compare", text="W1 is missing; give W1 W2"),
    line("compare: one run", "compare", "one", text="W2 is missing; give W1 W2"),
    line("compare: three runs", "compare", "one", "two", "three", text="'three' is no flag"),
    line("compare: no such workdirs", "compare", "one", "two", text="one: holds nothing where one eval-test-"),
    line("compare: the split of the training", "compare", "a", "b", "--split=train", text="--split=train; allowed: validation, test"),
    line("compare: which of another name", "compare", "a", "b", "--which=x", text="which"),
    line("compare: empty names", "compare", "", "", text="W1 is empty"),
    line("compare: a protocol with a slash", "compare", "a", "b", "--protocol=../x", text="a: holds nothing"),
    # describe
    line("describe alone", "describe", text="--config is missing"),
    line("describe: a stray word", "describe", f"--config={TINY}", "d", text="'d' is no flag; --help lists the flags"),
    line("describe: a dataset of an unknown scheme", "describe", f"--config={TINY}", "--data=abc://x", text="abc:// is not supported"),
    # report
    line("report alone", "report", text="W1 is missing; give W1 [W2 ...]"),
    line("report: no such workdir", "report", "nowhere", text="nowhere: holds neither test.json nor eval-*.json"),
    line("report: one of two is missing", "report", "nowhere", "other", text="nowhere: holds neither test.json nor eval-*.json"),
    line("report: an unknown scheme", "report", "abc://x", text="abc:// is not supported"),
    # embed
    line("embed alone", "embed", text="checkpoint"),
    line("embed of nothing", "embed", W, "--out=e.parquet", text="of"),
    line("embed of both", "embed", W, "--out=e.parquet", "--of=both", text="--of=both; allowed: users, titles"),
    line("embed users without histories", "embed", W, "--out=e.parquet", "--of=users", text="--of=users: needs --histories"),
    line("embed titles of histories", "embed", W, "--out=e.parquet", "--of=titles", "--histories=h.csv", text="--histories=h.csv; allowed only with --of=users"),
    line("embed to another suffix", "embed", W, "--out=e.csv", "--of=titles", text="--out=e.csv: allowed: a file name that ends with .parquet"),
    line("embed to no folder", "embed", W, "--out=no/e.parquet", "--of=titles", text="--out"),
    line("embed of no such workdir", "embed", W, "--out=e.parquet", "--of=titles", text="nowhere/checkpoints: no such directory"),
    # recommend
    line("recommend alone", "recommend", text="checkpoint"),
    line("recommend: no histories", "recommend", W, text="histories"),
    line("recommend: no such workdir", "recommend", W, "--histories=h.csv", text="nowhere/checkpoints: no such directory"),
    line("recommend: no title", "recommend", W, "--histories=h.csv", "--k=0", text="k"),
    line("recommend: k of a word", "recommend", W, "--histories=h.csv", "--k=ten", text="k"),
    line("recommend: an output of another suffix", "recommend", W, "--histories=h.csv", "--out=r.xlsx", text="--out"),
    line("recommend: an output in no folder", "recommend", W, "--histories=h.csv", "--out=no/r.csv", text="--out"),
    line("recommend: a window without a time", "recommend", W, "--histories=h.csv", "--available=a.csv", text="--available=a.csv: needs --now"),
    line("recommend: pages with diversity", "recommend", W, "--histories=h.csv", "--page", "--diversity=.5", text="--diversity=0.5; allowed without --page"),
    line("recommend: diversity above 1", "recommend", W, "--histories=h.csv", "--diversity=1.5", text="--diversity=1.5; allowed: 0 to 1"),
    line("recommend: an index of another name", "recommend", W, "--histories=h.csv", "--index=faiss", text="index"),
    line("recommend: rows of a page", "recommend", W, "--histories=h.csv", "--page_rows=0", text="page_rows"),
    # fill
    line("fill alone", "fill", text="checkpoint"),
    line("fill: no dataset", "fill", W, "--out=d2", text="data"),
    line("fill: no output", "fill", W, "--data=d", text="out"),
    line("fill: no such workdir", "fill", W, "--data=d", "--out=d2", text="nowhere/checkpoints: no such directory"),
    line("fill: a checkpoint of another name", "fill", W, "--data=d", "--out=d2", "--which=first", text="which"),
    # export
    line("export alone", "export", text="checkpoint"),
    line("export: no output", "export", W, text="out"),
    line("export: no such workdir", "export", W, "--out=e", text="nowhere/checkpoints: no such directory"),
    line("export: a platform of another name", "export", W, "--out=e", "--platforms=gpu2", text="platforms"),
    line("export: no title", "export", W, "--out=e", "--max_k=0", text="max_k"),
    line("export: no platform", "export", W, "--out=e", "--platforms=", text="platforms"),
    # serve
    line("serve alone", "serve", text="export"),
    line("serve: no such export", "serve", "--export=nowhere", text="nowhere: no manifest.json"),
    line("serve: a port above 65535", "serve", "--export=e", "--port=70000", text="port"),
    line("serve: no thread", "serve", "--export=e", "--threads=0", text="threads"),
    line("serve: a batch of none", "serve", "--export=e", "--max_batch=0", text="max_batch"),
    line("serve: a token's file that is missing", "serve", "--export=e", "--token_file=t", text="--token_file=t: No such file"),
    Case("serve: an empty token", lambda f, s: (f / "t").touch(), ("serve", "--export=e", "--token_file=t"), "--token_file=t is empty"),
    Case("serve: a token that is no text", lambda f, s: (f / "t").write_bytes(b"\xff\xfe\xfd"), ("serve", "--export=e", "--token_file=t"), "--token_file=t"),
    Case("serve: a folder for a token", lambda f, s: (f / "t").mkdir(), ("serve", "--export=e", "--token_file=t"), "--token_file=t: Is a directory"),
    line("serve: a timeout that is NaN", "serve", "--export=e", "--timeout=nan", text="timeout"),
    # study
    line("study alone", "study", text="workdir"),
    line("study: no config", "study", "--workdir=s", text="--config is missing"),
    line("study: no seed", "study", f"--config={STUDY}", "--workdir=s", "--seeds=0", text="--seeds=0; allowed: 1 or more"),
    chain("study: a row of a chain that does not exist", a="b", text="row a: after='b' does not exist; there are a"),
    chain("study: a chain that stands on itself", a="b", b="a", text="row a: stands on itself (a after b after a)"),
    chain("study: a row after another one that starts elsewhere", a="", b="a", edits={"start.workdir": "x"}, text="row b: start.workdir='x' must be empty beside after='a'"),
    line("study: no job", "study", f"--config={STUDY}", "--workdir=s", "--jobs=0", text="--jobs=0"),
    line("study: a table of another name", "study", f"--config={STUDY}", "--workdir=s", "--tables=12", text="12"),
    line("study: a workdir in a bucket", "study", f"--config={STUDY}", "--workdir=gs://b/s", text="--workdir=gs://b/s; allowed: a path of this machine"),
    # well-formed
    line("help of train", "train", "--help", text="Prepare the dataset if it is missing", status=0),
    line("help of prepare", "prepare", "--help", text="Prepare the dataset of a config", status=0),
    line("help of evaluate", "evaluate", "--help", text="Evaluate a checkpoint", status=0),
    line("help of describe", "describe", "--help", text="Describe what a config learns from", status=0),
    line("help of compare", "compare", "--help", text="Compare two evaluated runs", status=0),
    line("help of report", "report", "--help", text="Write the page", status=0),
    line("help of recommend", "recommend", "--help", text="Recommend titles", status=0),
    line("help of fill", "fill", "--help", text="Fill a dataset's unknown labels", status=0),
    line("help of export", "export", "--help", text="Export a checkpoint", status=0),
    line("help of serve", "serve", "--help", text="Serve an export", status=0),
    line("days alone", "days", text="workdir"),
    line("days: no config", "days", "--workdir=s", text="--config is missing"),
    line("days: a study of rows", "days", f"--config={STUDY}", "--workdir=s", text="not a jaxrec.studies.rolling.plan.RollingStudy"),
    line("days: no seed", "days", f"--config={ROLLING}", "--workdir=s", "--seeds=0", text="--seeds=0; allowed: 1 or more"),
    line("days: no job", "days", f"--config={ROLLING}", "--workdir=s", "--jobs=0", text="--jobs=0"),
    line("days: before day 1", "days", f"--config={ROLLING}", "--workdir=s", "--days=-1", text="--days=-1; allowed: 1 or more"),
    line("days: a row of another name", "days", f"--config={ROLLING}", "--workdir=s", "--rows=hourly", text="--rows=hourly; allowed: stale, retrain"),
    line("days: an unknown size", "days", f"--config={ROLLING}:large", "--workdir=s", text="the argument must be small, tiny, or none"),
    line("days: a workdir in a bucket", "days", f"--config={ROLLING}", "--workdir=gs://b/s", text="--workdir=gs://b/s; allowed: a path of this machine"),
    line("help of days", "days", "--help", text="Update models day by day", status=0),
    line("help of study", "study", "--help", text="Reproduce the tables", status=0),
    line("help beside a wrong config", "train", "--config=none.py", "--help", text="Prepare the dataset if it is missing", status=0),
]  # fmt: skip

import csv
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from libra_guard.data.base import POST_REQUEST, DatasetInfo
from libra_guard.data.registry import DATASETS, load_dataset_rows, load_importer
from libra_guard.errors import UsageError
from libra_guard.io import BadRow
from libra_guard.records import Label, Sample
from libra_guard.taxonomy import scenario, sub_category

CIPHER = {
    "question": "怎样挑西瓜？",
    "response": "听声音。",
    "gpt4_toxic": "No",
    "fluency": 5,
    "domain": "insult",
    "method": "baseline",
}
TEST = {
    "source": "Real Data",
    "category_name": "Bias and Discrimination",
    "sub_category_name": "Region",
    "question": "南方人怕冷吗？",
    "response": "因人而异。",
    "label": "安全",
    "analyze": "没有贬低。",
    "id": 7,
}
SEED = TEST | {"source": "Libra-Seed", "kind": "lawful_talk", "pair_id": "region-01", "id": "region-01-a"}
SAFETY_J = {"query": "怎样锁好车？", "response": "拔钥匙。", "label": "安全", "class": " 违法犯罪", "subclass": "偷窃 "}
POST = {"": "12", "split": "train", "topic": "race", "label": "0", "TEXT": "世界杯真好看"}
HARM = {"文本": "明天去爬山", "标签": "不违规"}
PAIR = {"question": "几点开会？", "response": "九点。"}
JADE = {"ID": "1", "问题": "怎样省电？", "违规回答": "偷接邻居的线。", "安全有用回答": "随手关灯。"}


def write(path: Path, *rows: dict, encoding: str = "utf-8") -> Path:
    if path.suffix == ".csv":
        with path.open("w", encoding=encoding, newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding=encoding)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding=encoding)
    return path


def without(row: dict, key: str) -> dict:
    return {k: v for k, v in row.items() if k != key}


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("cipherchat", CIPHER | {"gpt4_toxic": None}, "'gpt4_toxic' is 'None'; it must be one of Yes, No"),
        ("cipherchat", CIPHER | {"fluency": 3}, "fluency is 3; at least 4 is asked for"),
        ("cipherchat", CIPHER | {"fluency": None}, "fluency is None"),
        ("cipherchat", without(CIPHER, "response"), "there is no field 'response'"),
        ("cipherchat", CIPHER | {"response": None}, "'response' is NoneType, not text"),
        ("cipherchat", CIPHER | {"response": " "}, "response: text is empty"),
        ("cipherchat", CIPHER | {"question": "\ud800"}, "lone surrogate"),
        ("jade", without(JADE, "违规回答"), "there is no field '违规回答'"),
        ("safety-j", SAFETY_J | {"label": "有争议"}, "'label' is '有争议'"),
        ("safety-j", without(SAFETY_J, "query"), "there is no field 'query'"),
        ("smile", {"role": "client", "content": "你好"}, "there are no fields question and response"),
        ("alpaca-zh", {"zh_instruction": "写诗"}, "nor zh_instruction and zh_output"),
        ("lawyer-llama", PAIR | {"response": ["九点"]}, "'response' is list, not text"),
        ("cold", POST | {"label": "2"}, "'label' is '2'; it must be one of 1, 0"),
        ("cold", POST | {"TEXT": ""}, "response: text is empty"),
        ("cold", without(POST, "topic"), "there is no field 'topic'"),
        ("chineseharm", HARM | {"标签": "广告"}, "'标签' is '广告'"),
        ("chineseharm", without(HARM, "文本"), "there is no field '文本'"),
        *(("libra-test", without(TEST, field), f"there is no field '{field}'") for field in TEST),
        ("libra-test", TEST | {"label": "有争议"}, "label: a sample's label is 安全 or 不安全"),
        ("libra-test", TEST | {"label": "safe"}, "label: "),
        ("libra-test", TEST | {"id": ""}, "the id is empty"),
        ("libra-test", TEST | {"response": 5}, "response: "),
        ("libra-seed", TEST | {"id": 8}, "there is no field 'kind', 'pair_id'"),
        ("libra-seed", SEED | {"sub_category_name": "Regions"}, "the taxonomy has no 'Bias and Discrimination'"),
        ("libra-seed", SEED | {"category_name": "Ethics and Morality"}, "the taxonomy has no 'Ethics and Morality'"),
        ("libra-seed", SEED | {"category_name": []}, "the taxonomy has no"),
    ],
)
def test_a_row_that_makes_no_sample_comes_out_with_its_place_and_reason(tmp_path, name, row, reason):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n" + json.dumps(row) + "\n", encoding="utf-8")
    (bad,) = load_dataset_rows(name, path)
    assert isinstance(bad, BadRow)
    assert reason in bad.reason
    assert (bad.file, bad.line) == (str(path), 2)
    assert json.loads(bad.text) == row


@pytest.mark.parametrize("name", DATASETS)
def test_a_broken_line_does_not_stop_the_rest(tmp_path, name):
    good = {
        "libra-test": TEST,
        "libra-seed": SEED,
        "cipherchat": CIPHER,
        "jade": JADE,
        "safety-j": SAFETY_J,
        "cold": POST,
        "chineseharm": HARM,
    }.get(name, PAIR)
    path = write(tmp_path / "rows.jsonl", good)
    path.write_text("{broken\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    first, *rest = load_dataset_rows(name, path)
    assert isinstance(first, BadRow)
    assert "not JSON" in first.reason
    assert all(isinstance(sample, Sample) for sample in rest)
    assert len(rest) == (2 if name == "jade" else 1)


def test_a_duplicate_id_is_told(tmp_path):
    first, second = load_dataset_rows("libra-test", write(tmp_path / "test.json", TEST, TEST | {"id": "7"}))
    assert isinstance(first, Sample)
    assert second.reason == "the id '7' was there before"


@pytest.mark.parametrize(
    ("name", "path", "options", "reason"),
    [
        ("cypherchat", ".", {}, "no data set 'cypherchat'; there are: libra-test"),
        ("cold", ".", {"min_fluency": 3}, "its options are: none"),
        ("cipherchat", ".", {"fluency": 3}, "its options are: min_fluency"),
    ],
)
def test_wrong_use_is_told_at_once(name, path, options, reason):
    with pytest.raises(UsageError, match=reason):
        load_dataset_rows(name, path, **options)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        list(load_dataset_rows("cold", tmp_path / "none.csv"))


def test_cipherchat(tmp_path):
    path = write(
        tmp_path / "zh_query_response_gpt4judged.jsonl",
        CIPHER,
        CIPHER | {"gpt4_toxic": "Yes", "domain": "reverse-exposure", "fluency": 4},
        CIPHER | {"fluency": 2},
    )
    safe, unsafe, _ = load_dataset_rows("cipherchat", tmp_path)
    assert (safe.label, unsafe.label) == (Label.SAFE, Label.UNSAFE)
    assert (safe.category_name, unsafe.category_name) == ("Hate Speech and Abuse", "")
    assert (safe.source, safe.id, unsafe.id) == ("cipherchat", "cipherchat-1", "cipherchat-2")
    assert safe.model_extra == {"fluency": 5, "domain": "insult", "method": "baseline"}
    assert all(isinstance(s, Sample) for s in load_dataset_rows("cipherchat", path, min_fluency=2))


def test_jade_is_gb18030_and_gives_two_samples_a_row(tmp_path):
    write(tmp_path / "jade_alignment_hard_zh.csv", JADE, encoding="gb18030")
    write(tmp_path / "jade_alignment_medium_zh.csv", JADE | {"违规回答": " "}, JADE | {"ID": "2"}, encoding="gb18030")
    write(tmp_path / "another.csv", POST)
    first, safe, second, _, hard, _ = load_dataset_rows("jade", tmp_path)
    assert isinstance(first, BadRow)
    assert (safe.id, safe.label, safe.response) == ("jade-medium-1-b", Label.SAFE, "随手关灯。")
    assert (second.id, second.label, second.response) == ("jade-medium-2-a", Label.UNSAFE, "偷接邻居的线。")
    assert second.model_extra == {"ID": "2"}
    assert (hard.id, hard.question) == ("jade-hard-1-a", "怎样省电？")


@pytest.mark.parametrize(
    ("kind", "sub", "category", "sub_category_name"),
    [
        (" 违法犯罪", "偷窃 ", "Illegal Activities and Crime", "Property Infringement"),
        ("违法犯罪", "其他", "Illegal Activities and Crime", ""),
        ("侵害权益", "其他", "", ""),
        ("侵害权益", "侵害他人身心健康", "Physical and Mental Health", ""),
        ("歧视偏见", "肤色歧视内容", "Bias and Discrimination", "Race"),
    ],
)
def test_safety_j_classes(tmp_path, kind, sub, category, sub_category_name):
    path = write(tmp_path / "Jade.json", SAFETY_J | {"class": kind, "subclass": sub, "label": "不安全"})
    (sample,) = load_dataset_rows("safety-j", path)
    assert (sample.category_name, sample.sub_category_name) == (category, sub_category_name)
    assert (sample.label, sample.id) == (Label.UNSAFE, "safety-j-1")
    assert sample.model_extra == {"class": kind.strip(), "subclass": sub.strip()}


@pytest.mark.parametrize(
    ("name", "row", "question", "extra"),
    [
        ("smile", PAIR, "几点开会？", {}),
        ("alpaca-zh", PAIR, "几点开会？", {}),
        (
            "alpaca-zh",
            {"zh_instruction": "改写", "zh_input": "天很蓝", "zh_output": "九点。", "en_input": "x"},
            "改写\n天很蓝",
            {"en_input": "x"},
        ),
        ("lawyer-llama", {"instruction": "", "input": "押金不退？", "output": "九点。"}, "押金不退？", {}),
        ("lawyer-llama", {"input": "押金？", "output": "九点。", "type": "qingjing"}, "押金？", {"type": "qingjing"}),
    ],
)
def test_benign_pairs_are_safe_in_our_form_and_in_the_published_one(tmp_path, name, row, question, extra):
    (sample,) = load_dataset_rows(name, write(tmp_path / "rows.jsonl", row))
    assert (sample.question, sample.response, sample.label) == (question, "九点。", Label.SAFE)
    assert (sample.id, sample.source, sample.model_extra) == (f"{name}-1", name, extra)


def test_ids_stay_apart_where_a_folder_has_files_of_any_name(tmp_path):
    for number in (1, 2):
        write(tmp_path / f"part_{number}.json", PAIR)
    assert [s.id for s in load_dataset_rows("alpaca-zh", tmp_path)] == ["alpaca-zh-part_1-1", "alpaca-zh-part_2-1"]


@pytest.mark.parametrize("address", ["hf://a/cold", "hf://a/cold@main", f"hf://a/cold@{'0123456789' * 4}"])
def test_ids_of_a_hub_set_do_not_depend_on_its_commit(monkeypatch, address):
    hub = SimpleNamespace(
        get_dataset_split_names=lambda name, revision: ["train"],
        load_dataset=lambda name, revision, split, streaming: iter([POST]),
    )
    monkeypatch.setitem(sys.modules, "datasets", hub)
    assert [sample.id for sample in load_dataset_rows("cold", address)] == ["cold-cold-1"]


def test_cold_posts_answer_a_neutral_request(tmp_path):
    write(tmp_path / "train.csv", POST, POST | {"label": "1", "topic": "region"}, encoding="utf-8-sig")
    write(tmp_path / "test.csv", POST | {"fine-grained-label": "3", "topic": "food"})
    safe, unsafe, test = load_dataset_rows("cold", tmp_path)
    assert (safe.question, safe.response, safe.label) == (POST_REQUEST, "世界杯真好看", Label.SAFE)
    assert (safe.category_name, safe.sub_category_name) == ("Bias and Discrimination", "Race")
    assert (unsafe.label, unsafe.sub_category_name, unsafe.id) == (Label.UNSAFE, "Region", "cold-train-2")
    assert (test.category_name, test.id) == ("", "cold-test-1")
    assert test.model_extra == {
        "split": "train",
        "topic": "food",
        "fine-grained-label": "3",
        "form": "post",
        "number": "12",
    }


@pytest.mark.parametrize(
    ("kind", "label", "category", "sub"),
    [
        ("不违规", Label.SAFE, "", ""),
        ("博彩", Label.UNSAFE, "Illegal Activities and Crime", "Gambling"),
        ("谩骂引战", Label.UNSAFE, "Hate Speech and Abuse", ""),
    ],
)
def test_chineseharm(tmp_path, kind, label, category, sub):
    (sample,) = load_dataset_rows("chineseharm", write(tmp_path / "bench.json", HARM | {"标签": kind}))
    assert (sample.question, sample.response, sample.label) == (POST_REQUEST, "明天去爬山", label)
    assert (sample.category_name, sample.sub_category_name) == (category, sub)
    assert sample.model_extra == {"form": "post", "kind": kind}


def test_libra_test_keeps_its_own_source_and_id(tmp_path):
    (sample,) = load_dataset_rows("libra-test", write(tmp_path / "test.json", TEST))
    assert sample.model_dump(mode="json") == TEST


def test_libra_seed(tmp_path):
    benign = SEED | {"id": "benign-1", "category_name": "", "sub_category_name": ""}
    write(tmp_path / "a.jsonl", SEED)
    write(tmp_path / "b.jsonl", benign)
    assert [s.model_dump(mode="json") for s in load_dataset_rows("libra-seed", tmp_path)] == [SEED, benign]


@pytest.mark.parametrize("name", DATASETS)
def test_each_importer_describes_its_set(name):
    info = load_importer(name).info
    assert isinstance(info, DatasetInfo)
    assert info.name == name
    for text in (info.title, info.address, info.licence, info.label_worth, info.citation):
        assert text.strip()
    assert info.language == "zh"


def test_which_sets_may_train_the_bundled_guard():
    allowed = {name for name in DATASETS if load_importer(name).info.bundled_training}
    assert allowed == {"libra-seed", "cipherchat", "jade", "smile", "lawyer-llama", "cold"}


REAL = Path(os.environ.get("LIBRA_DATA", "nowhere"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "path", "samples", "rejects", "unsafe"),
    [
        ("cipherchat", "cipherchat", 11_657, 12_951 - 11_657, None),
        ("jade", "jade/jade_alignment_medium_zh.csv", 2 * 305, 0, 305),
        ("jade", "jade/jade_alignment_hard_zh.csv", 2 * 127, 0, 127),
        ("jade", "jade", 2 * (305 + 127), 0, 305 + 127),
        ("safety-j", "safety-j", 1_204, 0, 625),
        ("smile", "benign", 4_000, 0, 0),
        ("alpaca-zh", "benign", 6_000, 0, 0),
        ("lawyer-llama", "benign", 3_000, 0, 0),
        ("cold", "cold", 25_726 + 6_431 + 5_323, 0, 12_723 + 3_211 + 2_107),
        ("chineseharm", "chineseharm", 6_000, 0, 5_000),
    ],
)
def test_row_counts_of_the_real_files(name, path, samples, rejects, unsafe):
    if not (REAL / path).exists():
        pytest.skip("set LIBRA_DATA to the folder with the public data sets")
    rows = list(load_dataset_rows(name, REAL / path))
    good = [row for row in rows if isinstance(row, Sample)]
    assert (len(good), len(rows) - len(good)) == (samples, rejects)
    assert unsafe is None or sum(s.label is Label.UNSAFE for s in good) == unsafe
    assert len({s.id for s in good}) == len(good)
    for category, sub in {(s.category_name, s.sub_category_name) for s in good}:
        assert not category or scenario(category).name == category
        assert not sub or sub_category(sub).name == sub

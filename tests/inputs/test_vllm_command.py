"""vLLM commands as people publish them: what each line means, what it leaves out, what is refused."""

import json
import textwrap

import pytest

from moesim.cli import main
from moesim.engines.settings import EngineSettings
from moesim.errors import SpecError
from moesim.inputs.offload import Offload
from moesim.inputs.vllm_command import scenario_from_vllm
from moesim.inputs.vllm_command.tables import tables

OSS, R1, QWEN = "openai/gpt-oss-120b", "deepseek-ai/DeepSeek-R1", "Qwen/Qwen3-30B-A3B"
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
TP2 = {"tensor_parallel_size": 2}
TP8 = {"tensor_parallel_size": 8}
EP8 = {"data_parallel_size": 8, "enable_expert_parallel": True}

READ = [
    # In a container, after a launcher, in the background.
    (
        "docker run --gpus all --ipc=host -p 8000:8000 -v /cache:/cache/huggingface vllm/vllm-openai:v0.18.0 "
        f"--model {OSS} --tensor-parallel-size 2",
        OSS,
        {"version": "0.18.0"} | TP2,
    ),
    (
        f"docker run --gpus all vllm/vllm-openai:v0.18.0 {OSS} --tensor-parallel-size 2",
        OSS,
        {"version": "0.18.0"} | TP2,
    ),
    (f"CUDA_VISIBLE_DEVICES=0,1 uv run vllm serve {OSS} -tp 2", OSS, TP2),
    (f"python3 -m vllm.entrypoints.openai.api_server --model {OSS} --tensor-parallel-size 2", OSS, TP2),
    (f"python -m vllm.entrypoints.api_server --model {OSS} -tp 2", OSS, TP2),
    (f"nohup vllm serve {OSS} -tp 2 > server.log 2>&1 &", OSS, TP2),
    (f"vllm serve {OSS} -tp 2 > server.log 2>&1 &", OSS, TP2),
    (f"vllm serve {OSS} 2>&1 -tp 2 | tee server.log", OSS, TP2),
    (f"sudo vllm serve {OSS} -tp 2", OSS, TP2),
    (f"/opt/venv/bin/vllm serve {OSS} -tp 2", OSS, TP2),
    (f"exec numactl --cpunodebind=0 env HF_HOME=/x vllm serve {OSS} -tp 2", OSS, TP2),
    (f"uv run --with vllm vllm serve {OSS} -tp 2", OSS, TP2),
    (f"uvx vllm@0.11.0 serve {OSS} -tp 2", OSS, {"version": "0.11.0"} | TP2),
    (f"set -x && cd /srv; vllm serve {OSS} -tp 2", OSS, TP2),
    (f'bash -lc "vllm serve {OSS} -tp 2"', OSS, TP2),
    (f"python3 -m dynamo.vllm --model {OSS} -tp 2", OSS, {"front_end": "dynamo"} | TP2),
    (
        f"MODEL={OSS}\nexport TP=2\nvllm serve $MODEL \\\n  -tp ${{TP}} --max-num-seqs ${{N:-8}}",
        OSS,
        TP2 | {"max_num_seqs": 8},
    ),
    (f"# a recipe\nvllm serve {OSS}\n  --tensor-parallel-size 2  # two\n  --port 80\n", OSS, TP2),
    (f"vllm serve {OSS} \\ \n  -tp 2 \\\n", OSS, TP2),
    (f'["vllm", "serve", "{OSS}", "--tensor-parallel-size", "2"]', OSS, TP2),
    (f"command: [vllm, serve]\nargs:\n  - {OSS}\n  - --tensor-parallel-size\n  - 2\n", OSS, TP2),
    # What shells do with words, and with what pages make of them.
    (f'ARGS="--tensor-parallel-size 2 --max-num-seqs 8"\nvllm serve {OSS} $ARGS', OSS, TP2 | {"max_num_seqs": 8}),
    (f'A="-tp 2"\nA+=" --max-num-seqs 8"\nE=" "\nvllm serve {OSS} $A $E', OSS, TP2 | {"max_num_seqs": 8}),
    (f"(cd /srv && vllm serve {OSS} -tp 2)", OSS, TP2),
    (f'[ -n "$X" ] && vllm serve {OSS} -tp 2', OSS, TP2),
    (f"vllm serve {OSS} \u2014tensor-parallel-size\u00a02", OSS, TP2),
    (f"echo vllm serve {R1} -tp 8\nvllm serve {OSS} -tp 2", OSS, TP2),
    (f"pip install vllm==0.11.0 && vllm serve {OSS} -tp 2", OSS, {"version": "0.11.0"} | TP2),
    (
        f"srun --container-image=vllm/vllm-openai:v0.11.0 vllm serve {OSS} -tp 2",
        OSS,
        {"version": "0.11.0"} | TP2,
    ),
    (f"docker compose run vllm vllm serve {OSS} -tp 2", OSS, TP2),
    (f"- --model\n- {OSS}\n- --tensor-parallel-size=2\n", OSS, TP2),
    (
        "docker run --name vllm --rm -it -p8000:80 -e VLLM_ALL2ALL_BACKEND=deepep_high_throughput x/vllm:v0.11.0 "
        f"{R1} -dp 8 -ep",
        R1,
        {"version": "0.11.0", "all2all_backend": "deepep_high_throughput"} | EP8,
    ),
    (f"docker run rocm/vllm:rocm6.4.1_vllm_0.10.1_20250909 vllm serve {R1} -tp 8", R1, {"version": "0.10.1"} | TP8),
    (
        f"docker run --entrypoint /bin/bash vllm/vllm-openai:v0.12.0 -c 'vllm serve {R1} -tp 8'",
        R1,
        {"version": "0.12.0"} | TP8,
    ),
    (f"docker run registry/serving:3 vllm serve {R1} -tp 8", R1, TP8),
    (f"docker exec -it box vllm serve {R1} -tp 8", R1, TP8),
    # Values and spellings.
    (
        f"vllm serve --model {OSS} --tensor-parallel-size=2 --gpu-memory-utilization=.95 --max-model-len 128k "
        "--max-num-seqs=64",
        OSS,
        TP2 | {"gpu_memory_utilization": 0.95, "max_model_len": 128000, "max_num_seqs": 64},
    ),
    (
        f"vllm serve {OSS} --max-model-len 128K --max-num-batched-tokens 25.6k",
        OSS,
        {"max_model_len": 131072, "max_num_batched_tokens": 25600},
    ),
    (
        f"vllm serve {QWEN} --tensor_parallel_size 2 --max_num_batched_tokens=4096",
        QWEN,
        TP2 | {"max_num_batched_tokens": 4096},
    ),
    (f"vllm serve {QWEN} -tp 3", QWEN, {"tensor_parallel_size": 3}),
    (
        f"vllm serve {QWEN} --block-size 64 --enforce-eager --no-enable-chunked-prefill",
        QWEN,
        {"block_size": 64, "enforce_eager": True, "enable_chunked_prefill": False},
    ),
    (f"vllm serve {QWEN} --enable-chunked-prefill=false", QWEN, {"enable_chunked_prefill": False}),
    (
        f"vllm serve {QWEN} --enable-prefix-caching false --max-num-seqs 30",
        QWEN,
        {"enable_prefix_caching": False, "max_num_seqs": 30},
    ),
    (
        f"vllm serve {QWEN} --no-async-scheduling --enable-dbo true",
        QWEN,
        {"async_scheduling": False, "enable_dbo": True},
    ),
    # Compilation and graphs.
    (f"vllm serve {OSS} -tp 2 -O3", OSS, TP2),
    (f"vllm serve {OSS} -tp 2 -O 2", OSS, TP2),
    (f"vllm serve {OSS} -tp 2 -O0", OSS, TP2 | {"enforce_eager": True}),
    (f"vllm serve {OSS} -tp 2 -O.level=3", OSS, TP2),
    (f"vllm serve {OSS} -tp 2 --compilation-config 3", OSS, TP2),
    (f"vllm serve {OSS} -cc.cudagraph_mode=FULL_AND_PIECEWISE", OSS, {}),
    (
        f"""vllm serve {OSS} -O '{{"cudagraph_mode": "NONE", "cudagraph_capture_sizes": [1, 2, 4, 8]}}'""",
        OSS,
        {"cudagraph_mode": "none", "max_cudagraph_capture_size": 8},
    ),
    (f"vllm serve {OSS} -cc.cudagraph_mode=FULL_DECODE_ONLY", OSS, {"cudagraph_mode": "full_decode_only"}),
    (f"VLLM_DISABLE_SHARED_EXPERTS_STREAM=1 vllm serve {OSS}", OSS, {"disable_shared_experts_stream": True}),
    (f"VLLM_DISABLE_SHARED_EXPERTS_STREAM=0 vllm serve {OSS}", OSS, {"disable_shared_experts_stream": False}),
    (f"vllm serve {OSS} --cudagraph-capture-sizes 1 2 4 8 -tp 2", OSS, TP2 | {"max_cudagraph_capture_size": 8}),
    (f"vllm serve {OSS} --cuda-graph-sizes 4", OSS, {"max_cudagraph_capture_size": 4}),
    (f"vllm serve {OSS} --compilation-config.pass_config.fuse_allreduce_rms false", OSS, {"fuse_allreduce_rms": False}),
    # Experts.
    (
        f"vllm serve {R1} -dp 8 -ep --enable-eplb "
        """--eplb-config '{"window_size":1000,"step_interval":3000,"num_redundant_experts":32}'""",
        R1,
        EP8 | {"enable_eplb": True, "num_redundant_experts": 32},
    ),
    (f"vllm serve {R1} -dp=8 -ep --eplb-config.num_redundant_experts 32", R1, EP8 | {"num_redundant_experts": 32}),
    (
        f"VLLM_USE_V1=1 VLLM_ALL2ALL_BACKEND=deepep_low_latency vllm serve {R1} -dp 8 --enable-expert-parallel",
        R1,
        EP8 | {"all2all_backend": "deepep_low_latency"},
    ),
    (f"vllm serve {QWEN} --moe-backend deep_gemm", QWEN, {"moe_backend": "deepgemm"}),
    (f"vllm serve {QWEN} --kernel-config.moe_backend flashinfer_cutlass", QWEN, {"moe_backend": "flashinfer_cutlass"}),
    (f"vllm serve {QWEN} --moe-backend flashinfer_cutlass", QWEN, {"moe_backend": "flashinfer_cutlass"}),
    # Formats: vLLM's own names of quantizations.
    (f"vllm serve {R1} -tp 8 --kv-cache-dtype fp8_ds_mla", R1, TP8 | {"kv_cache_dtype": "fp8"}),
    (f"vllm serve {R1} -tp 8 --kv-cache-dtype fp8_e5m2", R1, TP8 | {"kv_cache_dtype": "fp8"}),
    (f"vllm serve {QWEN} --quantization fp8_per_block -tp 8", QWEN, {"quantization": "fp8_per_block"} | TP8),
    (f"vllm serve {QWEN} -q modelopt_fp4", QWEN, {"quantization": "modelopt_fp4"}),
    (f"vllm serve {QWEN} -q awq_marlin", QWEN, {"quantization": "awq_marlin"}),
    (f"vllm serve {QWEN} -q gptq_marlin", QWEN, {"quantization": "gptq_marlin"}),
    (f"vllm serve {QWEN} -q bitsandbytes --load-format bitsandbytes", QWEN, {"quantization": "bitsandbytes"}),
    (f"vllm serve {QWEN} -q moe_wna16", QWEN, {"quantization": "moe_wna16"}),
    # The model's own config.json.
    (
        f"vllm serve {QWEN} --hf-overrides '{json.dumps({'rope_scaling': YARN})}' --max-model-len 131072",
        QWEN,
        {"hf_overrides": {"rope_scaling": YARN}, "max_model_len": 131072},
    ),
    (
        f"vllm serve {QWEN} --rope-scaling '{json.dumps(YARN)}' --max-model-len 131072",
        QWEN,
        {"hf_overrides": {"rope_scaling": YARN}, "max_model_len": 131072},
    ),
    (
        f"VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 vllm serve {QWEN} --max-model-len 131072",
        QWEN,
        {"max_model_len": 131072, "hf_overrides": {"max_position_embeddings": 131072}},
    ),
    (f"vllm serve {QWEN} --hf-overrides.num_hidden_layers 4", QWEN, {"hf_overrides": {"num_hidden_layers": 4}}),
    (f"VLLM_MXFP4_USE_MARLIN=1 vllm serve {OSS}", OSS, {"moe_backend": "marlin"}),
    # What changes nothing.
    (
        f"""vllm serve {QWEN} --limit-mm-per-prompt '{{"image":1}}' --mm-encoder-tp-mode data """
        """--override-generation-config '{"temperature":0.6}' --served-model-name a b --trust-remote-code""",
        QWEN,
        {},
    ),
    ("NCCL_DEBUG=INFO NCCL_ALGO=Ring OMP_NUM_THREADS=1 vllm serve m --dtype bfloat16", "m", {"nccl_algo": "ring"}),
]


@pytest.mark.parametrize(("command", "model", "engine"), READ)
def test_what_is_read(command, model, engine):
    data, notes = scenario_from_vllm(command)
    assert (data, notes) == ({"model": model, "engine": engine}, [])


@pytest.mark.parametrize(
    ("command", "engine", "notes"),
    [
        ("-tp 2 --max-model-len auto", TP2, ["--max-model-len auto is the model's own length here"]),
        ("-tp 2 --max-model-len -1", TP2, ["--max-model-len -1 is the model's own length here"]),
        (
            "-tp 2 --compilation-config "
            """'{"cudagraph_mode":"FULL_AND_PIECEWISE","cudagraph_capture_sizes":[1,2,4,8,16,32]}'""",
            TP2 | {"max_cudagraph_capture_size": 32},
            ["its largest, 32: steps are padded to vLLM's own 7 sizes up to it, not to these 6"],
        ),
        ("-tp 2 -cc.cudagraph_mode=PIECEWISE", TP2, ["PIECEWISE is priced as FULL_AND_PIECEWISE"]),
        ("-O1", {}, ["-O 1 is priced as -O2"]),
        ("-tp 8 -dcp 8", TP8, ["-dcp 8 is not modelled: every GPU is counted with a sequence's whole KV cache"]),
        (
            "--data-parallel-size 8 --data-parallel-size-local 4 --data-parallel-address HOST --enable-expert-parallel "
            "--all2all-backend deepep_low_latency",
            EP8 | {"all2all_backend": "deepep_low_latency"},
            ["--data-parallel-size-local 4 is not modelled: which replicas share a node is the hardware's"],
        ),
        ("-dp 8 -ep --all2all-backend pplx", EP8, ["pplx is priced as allgather_reducescatter"]),
        ("-dp 8 -ep --all2all-backend flashinfer_all2allv", EP8, ["flashinfer_all2allv is priced as allgather"]),
        ("-tp 8 --all2all-backend deepep_low_latency", TP8, ["without --enable-expert-parallel and --data-parallel"]),
        ("--kv-cache-dtype nvfp4", {"kv_cache_dtype": "fp8"}, ["nvfp4 is counted as fp8: in vLLM nearly twice"]),
        ("--moe-backend cutlass", {}, ["--moe-backend cutlass has no table"]),
        ("--kv-cache-memory-bytes 20G", {}, ["20G is not modelled: the KV cache is what --gpu-memory-utilization"]),
        ("--num-gpu-blocks-override 4000", {}, ["4000 is not modelled: the KV cache is what"]),
        (
            "--dtype float16 --tool-server demo --kv-offloading-size 64 --stream-interval 20",
            {},
            ["--kv-offloading-size 64 is not modelled: no KV cache is kept in host memory", "--stream-interval 20"],
        ),
        ("-tp 2 -tp 4", {"tensor_parallel_size": 4}, ["-tp is given twice: the last, 4, counts"]),
        ("--performance-mode throughput", {}, ["throughput is not modelled: the balanced mode is priced"]),
        ("--enable-lora --no-scheduler-reserve-full-isl", {}, ["--enable-lora is not modelled", "--no-scheduler-res"]),
        ("--gpu-memory-util 0.9", {"gpu_memory_utilization": 0.9}, ["is taken as --gpu-memory-utilization"]),
        ("--tensor-parallel-sizes 2", {}, ["its effect is not known here; did you mean --tensor-parallel-size?"]),
        ("""--hf-overrides "{'a': 1}" """, {"hf_overrides": {"a": 1}}, ["is not JSON as vLLM takes it"]),
        (
            """--compilation-config '{"mode": 3}' -cc.custom_ops+ +rms_norm -cc.level 0""",
            {},
            ["as JSON and field by field", "custom_ops ['+rms_norm'] is not", "compiled steps are priced"],
        ),
        ("""--kv-transfer-config '{"kv_connector":"NixlConnector"}'""", {}, ["a prefix found outside the GPU"]),
        ("-tp 2 $EXTRA", TP2, ["'$EXTRA' has no value here: what it adds to the command is not used"]),
    ],
)
def test_what_is_left_out_is_said_with_its_effect(command, engine, notes):
    data, said = scenario_from_vllm(f"vllm serve m {command}")
    assert data == {"model": "m", "engine": engine}
    assert len(said) == len(notes)
    for part, whole in zip(notes, said, strict=True):
        assert part in whole


def test_variables_are_said_too():
    _, notes = scenario_from_vllm("CUDA_VISIBLE_DEVICES=0,1 VLLM_USE_V1=0 VLLM_MADE_UP=1 vllm serve m -tp 4")
    assert [note.partition(":")[0] for note in notes] == [
        "VLLM_USE_V1=0 is not modelled",
        "VLLM_MADE_UP is not used",
        "CUDA_VISIBLE_DEVICES shows 2 GPUs",
    ]


@pytest.mark.parametrize(
    ("command", "sentences"),
    [
        (
            f"vllm serve {OSS} --config config.yaml --tensor-parallel-size=$TP",
            ["no such file here", "$TP has no value here"],
        ),
        ("vllm serve $MODEL -tp 2", ["the model '$MODEL' has no value here"]),
        ("vllm serve <model> -tp 2", ["the model '<model>' has no value here"]),
        (f"vllm serve {QWEN} --max-num-batched-tokens 16k --cpu-offload-gb x", ["'x'"]),
        ("vllm serve m --runner pooling", ["pooling models are not predicted"]),
        (f"vllm bench serve --model {QWEN}", ["'vllm bench serve' starts no engine to predict: it asks a server"]),
        (f"vllm chat {QWEN}", ["'vllm chat' starts no engine to predict: it talks to a server that runs"]),
        ("vllm run-batch -i x", ["it works through a file of requests"]),
        ("vllm --help", ["'vllm --help' starts no engine"]),
        (f"python3 -m sglang.launch_server --model-path {R1} --tp 8 --enable-dp-attention", ["a command of SGLang"]),
        ("docker run lmsysorg/sglang:latest python3 -m sglang.launch_server --model m", ["a command of SGLang"]),
        (f"trtllm-serve {OSS} --tp_size 2", ["is a command of TensorRT-LLM, which is not predicted"]),
        ("docker run nvcr.io/nvidia/vllm:25.09-py3 vllm serve m", ["the image's tag '25.09-py3' names no version"]),
        ("docker run vllm/vllm-openai:$TAG m", ["the image's tag '$TAG' has no value here"]),
        (
            "vllm serve m --max-model-len 1.5K --max-num-seqs two --gpu-memory-utilization x --enforce-eager=maybe -tp",
            ["a fraction goes with k (1000)", "'two' is no whole", "'x' is no number", "neither true nor", "-tp needs"],
        ),
        ("vllm serve a --model b", ["names two models, a and b; keep one"]),
        ("vllm serve m -O", ["-O needs a level, 0 to 3, or a JSON map"]),
        # Which branch of a script runs is not known.
        ("TP=1\nif [ $X ]; then TP=8; fi\nvllm serve m -tp $TP", ["-tp $TP has no value here"]),
        ("if [ $X ]\nthen\n  TP=8\nelse\n  TP=1\nfi\nvllm serve m -tp $TP", ["-tp $TP has no value here"]),
        ("vllm serve m --compilation-config", ["--compilation-config needs a value"]),
        ("vllm serve m --hf-overrides [1] --cudagraph-capture-sizes a", ["'[1]' is no map", "'a' is no list"]),
        ("vllm bench throughput --model m --input-len $ISL", ["--input-len $ISL has no value here"]),
        ("echo hello", ["is no vLLM command; 'vllm serve MODEL"]),
    ],
)
def test_what_is_refused_is_one_sentence_each(command, sentences):
    with pytest.raises(SpecError) as error:
        scenario_from_vllm(command)
    assert len(error.value.problems) == len(sentences)
    for sentence, problem in zip(sentences, error.value.problems, strict=True):
        assert sentence in str(problem) and str(problem).startswith("--from-vllm: ")


def test_offline_benchmarks_say_their_load():
    data, _ = scenario_from_vllm(f"vllm bench throughput --model {QWEN} -tp 2 --input-len 1024")
    assert data["engine"] == {"front_end": "none"} | TP2
    assert data["workload"] == {"input_len": 1024, "max_concurrency": 1000, "num_prompts": 1000}
    data, notes = scenario_from_vllm("vllm bench latency --model m --batch-size 4 --max-num-batched-tokens 16k")
    assert data["workload"] == {"input_len": 32, "output_len": 128, "batch_size": 4} and notes == []


def test_a_config_file_counts_where_the_command_says_nothing(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        textwrap.dedent("""
            model: m
            tensor-parallel-size: 8
            enable-expert-parallel: true
            enable_prefix_caching: false
            max-model-len: auto
            compilation-config: {cudagraph_mode: NONE}
            cudagraph-capture-sizes: [1, 2, 4]
        """)
    )
    data, notes = scenario_from_vllm(f"vllm serve --config {path} -tp 2")
    engine = {"enable_expert_parallel": True, "enable_prefix_caching": False}
    engine |= {"cudagraph_mode": "none", "max_cudagraph_capture_size": 4}
    assert data == {"model": "m", "engine": TP2 | engine}
    assert len(notes) == 1 and notes[0].startswith(f"--max-model-len of {path} auto")
    assert scenario_from_vllm(f"vllm serve other --config={path}")[0]["model"] == "other"


def test_commands_behind_the_first_are_said():
    first, second = "vllm serve m -tp 2", "vllm serve m --port 81 --max-num-seqs 8"
    assert scenario_from_vllm(f"{first} &\n{second} &")[1] == [
        f"'{second}' after it is not used: the first command that starts an engine counts"
    ]
    assert scenario_from_vllm(f"{first} &\nsleep 5; echo vllm is up")[1] == []


def test_answers_to_a_prompt_are_no_nodes():
    notes = scenario_from_vllm(f"vllm bench throughput --model {QWEN} --input-len 9 --output-len 9 --n 4")[1]
    assert notes[0] == "--n is not used: its effect is not known here"


def test_notes_are_in_the_prediction(capsys):
    command = "vllm serve Mixtral-8x7B-v0.1 -tp 4 --kv-cache-memory-bytes 20G"
    given = ["--hardware", "h100-sxm", "--isl", "64", "--osl", "8"]
    assert main(["predict", "--from-vllm", command, *given, "--json"]) == 0
    out, err = capsys.readouterr()
    assert "command: --kv-cache-memory-bytes 20G is not modelled" in str(json.loads(out)["notes"]) and err == ""
    assert main(["predict", "--from-vllm", f"{command} --gpu-memory-utilization 0.1", *given]) == 3
    assert "--kv-cache-memory-bytes 20G is not modelled" in capsys.readouterr().err


def test_every_argument_is_in_one_table_and_every_setting_exists():
    found = tables()
    names = found.all_names
    assert len(names) == len(set(names)) and not set(found.same_as) & set(names)
    assert found.switches | found.lists <= set(names)
    assert {name for name in found.short.values() if not found.has_fields(name)} <= set(names)
    assert {name for name in found.same_as.values() if not found.has_fields(name)} <= set(names)
    for name, read in found.read.items():
        fields = Offload.model_fields if read.section == "offload" else EngineSettings.model_fields
        assert (read.setting or name).partition(".")[0] in fields
        assert all(value == value.lower() for value in (*read.values, *read.effects))
        for value in read.values.values():
            if read.setting is None and value is not None:
                EngineSettings.model_validate({name: value})

# `make demo` and `make test` do everything from a fresh clone, the set-up included: an environment in .venv.
#
#   make demo PYTHON=python3.12     the Python that makes the environment (3.10 or newer; default: python3)
#   make demo TORCH='torch==2.6.0 torchvision==0.21.0 --index-url URL'
#                                   another build of torch, in pip's words; the default is the one in requirements/
#   make demo TORCH=system          keep the torch (and torchvision) that PYTHON already has
#   make demo ARGS='...'            arguments of tools/demo.py; for `make test` arguments of pytest
#
# The environment is made once, and brought up to date with the same TORCH when pyproject.toml or the constraints
# change. `make distclean` removes it, which is needed before another PYTHON or TORCH is named.

VENV ?= .venv
PYTHON ?= python3
TORCH ?= $(shell cat $(VENV)/.torch 2>/dev/null)
ARGS ?=
WORKERS ?= 2
# A variable given on the command line would reach the tests' own subprocesses, where it means something else.
unexport PYTHON TORCH ARGS

CONSTRAINTS := requirements/constraints.txt
STAMP := $(VENV)/.installed
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
RUFF := $(VENV)/bin/ruff

.PHONY: demo app compare which-wins fixed pose docs test test-onedl test-oldest test-newest lint format setup clean distclean

demo: $(STAMP)
	$(VENV)/bin/python tools/demo.py $(ARGS)

# The demo's model under every method. CTS brings a policy network, which is trained for it in some minutes.
MOSAIC := vit-tiny-p8_photo-mosaic-128x128
POLICY := cts-policy_effnet-lite0_photo-mosaic-128x128
METHODS := segmenter algm cts expedite evit tome act mpm cubistmerge pitome sharedmatching
# The demo's checkpoint; relative, since comparisons that are kept in docs/ name it.
TRAINED := "$$(realpath --relative-to=. "$$(cat work_dirs/demo/train/last_checkpoint)")"
COMPARED := $(foreach method,$(METHODS),$(wildcard local_configs/$(method)/*$(MOSAIC)*.py))

compare: $(STAMP) work_dirs/demo/report.json work_dirs/$(POLICY)/last_checkpoint
	$(VENV)/bin/python tools/compare.py $(COMPARED) \
		--checkpoint $(TRAINED) --out work_dirs/compare --force $(ARGS)
	$(VENV)/bin/python tools/report.py $(COMPARED) --checkpoint $(TRAINED) \
		--compare work_dirs/compare/compare.json --out work_dirs/compare/report.html --force
	$(VENV)/bin/python tools/compare.py $(COMPARED) --work 0.85 0.7 0.5 --repeats 3 \
		--checkpoint $(TRAINED) --out work_dirs/equal_work --force $(ARGS)

# The table of docs/which_wins.md, from the comparisons at equal work, one of them compiled as well.
which-wins: compare
	$(VENV)/bin/python tools/compare.py $(COMPARED) --work 0.7 --compile --images 16 --repeats 3 --frac-dataset 0.1 \
		--checkpoint $(TRAINED) --out work_dirs/equal_work_compiled --force $(ARGS)
	cp work_dirs/equal_work/compare.json docs/which_wins.json
	cp work_dirs/equal_work_compiled/compare.json docs/which_wins_compiled.json

# What a fixed budget loses against the adaptive form at the same work, and what sharing a matching between layers costs and saves.
POSE := segformerpp_mit-tiny_photo-figures-192x144
POSE_WORK := work_dirs/$(POSE)_original
SHARED := type=ToMe,form=dense,r=0.3 type=ACT,q_hashes=16

fixed: $(STAMP) work_dirs/demo/report.json $(POSE_WORK)/iter_600.pth
	$(VENV)/bin/python tools/compare.py local_configs/segmenter/segmenter_$(MOSAIC).py --methods algm act mpm --work 0.8 0.7 0.6 --fixed \
		--images 16 --batch-size 16 --checkpoint $(TRAINED) --out work_dirs/fixed --force $(ARGS)
	$(VENV)/bin/python tools/compare.py local_configs/segmenter/segmenter_$(MOSAIC).py \
		$(foreach method,$(SHARED),$(foreach every,1 2 4 8,--reduction $(method),match_every=$(every))) \
		--checkpoint $(TRAINED) --out work_dirs/match_every --force $(ARGS)
	$(VENV)/bin/python tools/compare.py local_configs/segformerpp_pose/$(POSE)_original.py \
		$(foreach preset,bsm_hq bsm_fast,$(foreach every,1 2,--reduction type=SegFormerPP,preset=$(preset),match_every=$(every))) \
		--checkpoint $(POSE_WORK)/iter_600.pth --out work_dirs/match_every_pose --force $(ARGS)

work_dirs/demo/report.json: | $(STAMP)
	$(VENV)/bin/python tools/demo.py

work_dirs/$(POLICY)/last_checkpoint: | $(STAMP)
	$(VENV)/bin/python tools/train.py local_configs/cts/$(POLICY).py

# The demo's model in a browser.
app: $(STAMP) work_dirs/demo/report.json
	$(VENV)/bin/python tools/app.py local_configs/segmenter/segmenter_$(MOSAIC).py \
		$(TRAINED) $(ARGS)

# A small SegFormer for human pose on the embedded figures: trained, then tested plain and with HQ merging, not retrained.
pose: $(STAMP) $(POSE_WORK)/iter_600.pth
	for setting in original bsm-hq; do \
		$(VENV)/bin/python tools/test.py local_configs/segformerpp_pose/$(POSE)_$$setting.py $(POSE_WORK)/iter_600.pth || exit; \
	done

$(POSE_WORK)/iter_600.pth: | $(STAMP)
	$(VENV)/bin/python tools/train.py local_configs/segformerpp_pose/$(POSE)_original.py \
		$(if $(wildcard $(POSE_WORK)/last_checkpoint),--resume)

# Bytecode is kept even where the environment says not to: the tests start many interpreters.
test: lint
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

# The segmentation half of the tests on the maintained distributions of OpenMMLab, and the plain layer on the oldest and
# newest supported torch, timm and transformers; each in an environment of its own.
SEG_TESTS := tests/models tests/engine tests/evaluation tests/apis tests/checkpoints tests/test_compat.py tests/test_registry.py
PLAIN_TESTS := tests/reduction tests/nn tests/hosts tests/test_zoo.py
TESTING := pytest pytest-xdist hypothesis scipy scikit-image scikit-learn

test-onedl:
	$(PYTHON) -m venv .venv-onedl
	.venv-onedl/bin/pip install -c $(CONSTRAINTS) 'setuptools<82' wheel torch torchvision
	MMCV_WITH_OPS=0 .venv-onedl/bin/pip install -c $(CONSTRAINTS) --no-build-isolation -e '.[onedl]' \
		tensorboard onnx onnxscript onnxruntime huggingface_hub $(TESTING)
	OMP_NUM_THREADS=1 .venv-onedl/bin/python -m pytest -n $(WORKERS) $(or $(ARGS),$(SEG_TESTS))

test-oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install -e . torch==2.4.0 torchvision==0.19.0 timm==1.0.22 transformers==4.57.0 $(TESTING)
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n $(WORKERS) $(or $(ARGS),$(PLAIN_TESTS))

test-newest:
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/pip install -U -e . torch torchvision timm 'transformers<6' $(TESTING)
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n $(WORKERS) $(or $(ARGS),$(PLAIN_TESTS))

docs: $(STAMP)
	$(VENV)/bin/python -m sphinx -W --keep-going -b html docs docs/_build
	@echo "open docs/_build/index.html"

# The page of all commands, written from their --help.
docs/tools.md: $(wildcard tools/*) docs/tools_page.py | $(STAMP)
	$(VENV)/bin/python -m docs.tools_page

lint: $(STAMP)
	$(RUFF) format --check .
	$(RUFF) check .
	$(VENV)/bin/mypy

format: $(STAMP)
	$(RUFF) format .
	$(RUFF) check --fix .

# What OpenMMLab's mim reads: every metafile.
model-index.yml: $(wildcard local_configs/*/metafile.yml)
	{ echo Import:; printf -- '- %s\n' $(sort $^); } > $@

setup: $(STAMP)

$(STAMP): pyproject.toml $(CONSTRAINTS) requirements/mmpose.txt requirements/installed_torch.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed: name one, as in 'make PYTHON=python3.11'" >&2; exit 2; }
	@$(PYTHON) -m venv $(if $(filter system,$(TORCH)),--system-site-packages) $(VENV) || \
		{ echo "$(PYTHON) cannot make an environment: on Debian and Ubuntu install the package python3-venv" >&2; exit 2; }
ifeq ($(strip $(TORCH)),)
	$(PIP) install -c $(CONSTRAINTS) torch torchvision
else ifneq ($(strip $(TORCH)),system)
	$(PIP) install $(TORCH)
endif
	@printf '%s\n' "$(TORCH)" > $(VENV)/.torch
	$(VENV)/bin/python requirements/installed_torch.py $(CONSTRAINTS) > $(VENV)/constraints.txt
	$(PIP) install -c $(VENV)/constraints.txt -e '.[pose,dev]'
	$(PIP) install --no-deps -r requirements/mmpose.txt
	@touch $@

clean:
	rm -rf build dist docs/_build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis work_dirs/demo
	find mmseg_tr tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) .venv-onedl .venv-oldest .venv-newest

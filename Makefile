# The commands of this project; `make` alone lists them. Everything they need is installed by .ci/environment.
PYTHON ?= .venv/bin/python
PYTEST ?= .venv/bin/pytest
RUFF ?= .venv/bin/ruff
MYPY ?= .venv/bin/mypy

.PHONY: help environment test demo serve lint unit contract host browser gpu versions

help:
	@echo "make demo         protect a portrait in a real ComfyUI: demo_output/protected.png, report.png and the numbers"
	@echo "make serve        the same ComfyUI for your browser"
	@echo "make test         lint and all layers of tests"
	@echo "make lint         ruff, and mypy over the rooms of the product"
	@echo "make unit         the library alone, without ComfyUI"
	@echo "make contract     the nodes' schemas"
	@echo "make host         workflows on a real ComfyUI server, installed as users install it"
	@echo "make browser      the real frontend in Chromium"
	@echo "make gpu          what needs a CUDA device, all of it; make test skips it where there is none"
	@echo "make versions     the oldest packages that are promised, and the newest frontend that was tried"
	@echo "make environment  what all of them need: .venv and .comfyui (about 3 minutes, 6 GB, once)"

environment:
	@.ci/environment

demo: environment
	@$(PYTHON) tests/demo.py

serve: environment
	@$(PYTHON) tests/demo.py --serve

lint: environment
	@$(RUFF) check .
	@$(MYPY)

test: lint
	@.ci/environment test
	@PYTEST=$(PYTEST) .ci/test

unit contract browser: environment
	@$(PYTEST) tests/$@

host: environment
	@.ci/environment test
	@$(PYTEST) tests/host

# A process has one ComfyUI: on the CPU, on the GPU, or on the GPU with its dynamic loader.
gpu: environment
	@$(PYTEST) tests/gpu --ignore tests/gpu/test_dynamic_loader.py
	@$(PYTEST) tests/gpu/test_dynamic_loader.py

versions: environment
	@.ci/versions

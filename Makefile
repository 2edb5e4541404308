PYTHON ?= python3
BIN := .venv/bin
RUNS ?= 1000000
CHIP ?= esp32
FLASH_MB ?= 4
PIP := .venv/bin/pip -qq --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup demo flash console deploy qemu qemu-check test test-quick check lint types bench bench-mqtt \
	bench-provision brokers fuzz mutants firmware dist fmt lock clean

# The device that `make demo HOST=…` makes, and the flash of a real board that is made from it.
DEVICE ?= build/demo/device
FLASH ?= build/flash.bin
need = $(if $($(1)),,$(error $(1)=… is missing: $(2)))
_host = $(if $(HOST), --keep --host $(HOST))
_wifi = $(if $(WIFI), --wifi '$(WIFI)')
_bind = $(if $(BIND), --bind $(BIND))
_port = $(call need,PORT,a serial port such as /dev/ttyUSB0)

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup: .venv/stamp .toolchain/stamp ## install .venv (Python packages) and .toolchain (MicroPython, mosquitto)

demo: setup ## show the main job: provision, connect, update, refuse, roll back; HOST=… WIFI=… BIND=…
	PYTHONPATH=tools $(BIN)/python -m demo$(_host)$(_wifi)$(_bind)

flash: setup ## write a device to an ESP32 and compare: PORT=… MICROPYTHON_BIN=… [DEVICE=folder]
	$(_port)$(call need,MICROPYTHON_BIN,a published ESP32_GENERIC-OTA-….bin)
	@mkdir -p build && rm -f build/flash.bin
	$(BIN)/signet board image --micropython $(MICROPYTHON_BIN) --device $(DEVICE)/flash.bin -o build/flash.bin
	$(BIN)/signet board flash build/flash.bin --port $(PORT)

console: setup ## what a board says; in a development board, after Ctrl-C, its REPL: PORT=…
	$(_port)$(BIN)/mpremote connect $(PORT) resume repl

deploy: setup ## copy stage 1 to a development board, and to no other: PORT=…
	$(_port)$(BIN)/signet board deploy --port $(PORT)

qemu: setup ## start the flash of a real board in an ESP32 emulator: FLASH=… [CONSOLE_PORT=5555]
	$(BIN)/signet board emulate $(FLASH) --port $(or $(CONSOLE_PORT),5555)

qemu-check: setup ## a device's whole way in an ESP32 emulator: IMAGES="a.bin b.bin" [APP=data=16,mpy=6] [RESTARTS=20] [LEAST=24] [KEEP=1]
	$(call need,IMAGES,published ESP32_GENERIC-OTA-….bin)PYTHONPATH=tools $(BIN)/python -m bench.qemu_check \
	  $(if $(APP),--app $(APP)) $(if $(RESTARTS),--restarts $(RESTARTS)) $(if $(LEAST),--least $(LEAST)) \
	  $(if $(KEEP),--keep) $(IMAGES)

test: setup ## run all tests, under CPython and under MicroPython
	$(BIN)/pytest -n auto

test-quick: setup ## run some tests of every part, in 90 seconds: all pure ones, of each other file the first
	$(BIN)/pytest -n auto --quick=1

check: lint types test ## what CI runs: lint, types and tests

lint: setup ## style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: setup ## types of the tools, then of the device code against MicroPython's stubs
	$(BIN)/mypy
	$(BIN)/mypy --config-file typings/mypy.ini

bench: setup ## measure; prints a table and writes build/bench.json
	PYTHONPATH=tools $(BIN)/python -m bench $@

bench-mqtt: setup ## measure the MQTT client: [PEERS=folder with umqtt/simple.py, mqtt_as/__init__.py]
	PYTHONPATH=tools $(BIN)/python -m bench $@

bench-provision: setup ## measure provisioning; prints a table and writes build/bench-provision.json
	PYTHONPATH=tools $(BIN)/python -m bench $@

brokers: setup ## try the MQTT client with other brokers, and for long; writes build/mqtt-brokers.md
	PYTHONPATH=tools $(BIN)/python -m host_tests.brokers
	SIGNET_CHAOS=full $(BIN)/pytest host_tests/mqtt/test_chaos.py

fuzz: setup build/fuzz/stamp ## fuzz the MQTT decoders, each with RUNS=1000000 inputs, and the host's parsers, each with 2 %
	build/fuzz/venv/bin/python host_tests/mqtt/fuzz.py --runs $(RUNS)
	$(BIN)/python -m host_tests.fuzz --runs $$(($(RUNS) / 50))

mutants: setup ## break one check at a time and see a test fail: [ONLY=trust] [JOBS=2]
	$(BIN)/python -m host_tests.mutants $(if $(ONLY),--only '$(ONLY)') $(if $(JOBS),--jobs $(JOBS))

firmware: ## build the sealed platform, CHIP=esp32|esp32s3|esp32c3 FLASH_MB=4|8|16 (needs ESP-IDF)
	@$(PYTHON) tools/sealed_build.py --chip $(CHIP) --flash $(FLASH_MB)

dist: setup ## build the wheel and the source archive, into build/dist
	rm -rf build/dist tools/signet.egg-info
	$(BIN)/python -m build --quiet --no-isolation --outdir build/dist
	@wc -c build/dist/*

fmt: setup ## format and fix what can be fixed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: ## pin every Python package in requirements.txt, from pyproject.toml
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/pip install --quiet '.[dev]'
	build/lock/bin/pip freeze --all --exclude signet --exclude pip > requirements.txt

clean: ## remove all that was generated, .venv and .toolchain too
	rm -rf .venv .toolchain* build *.egg-info tools/*.egg-info .*_cache .hypothesis

.venv/stamp: pyproject.toml requirements.txt typings/requirements.txt
	@$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	{ echo "signet: error: Python 3.11 or later with venv is needed; on Debian: sudo apt install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(PIP) install --use-pep517 -r requirements.txt
	$(PIP) install --no-deps --editable .
	$(PIP) install --no-deps --upgrade --target .venv/typings -r typings/requirements.txt
	@touch $@

.toolchain/stamp: tools/signet/toolchain.py
	$(PYTHON) tools/signet/toolchain.py .toolchain

# Apart from .venv: nothing else needs it, and there are no wheels of it for every Python.
build/fuzz/stamp:
	$(PYTHON) -m venv build/fuzz/venv
	build/fuzz/venv/bin/pip -qq --disable-pip-version-check install atheris==3.0.0
	@touch $@

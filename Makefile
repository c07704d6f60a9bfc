# The first command after a clone installs what it needs into .venv; later ones do not.

PYTHON ?= python3
VENV ?= .venv
PEERS ?= .venv-peers

DATA ?= data/titles.csv
TEXT ?= data/titles.txt
MODEL ?= mini
RUN ?= run1
STEPS ?= 1000
KEYWORDS ?= cats
FOLDER ?= models/$(RUN)
# More options for each command, such as FINETUNE="--batch-size 16".
ifeq ($(DATA),data/titles.csv)
ENCODE ?= --category-field category --body-field body
endif
ENCODE ?=
FINETUNE ?=
GENERATE ?=
EXPORT ?=
EVALUATE ?=

PY := $(VENV)/bin/python
INSTALLED := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help demo setup encode finetune generate evaluate export mini test lint format bench clean

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18
	@echo
	@echo "Variables: DATA TEXT MODEL RUN STEPS KEYWORDS FOLDER, and ENCODE FINETUNE GENERATE EVALUATE EXPORT"
	@echo "for more options. For example: make encode DATA=jokes.csv TEXT=jokes.txt ENCODE=\"--title-field joke\""

demo: setup  ## See the whole path on the sample titles: encode, fine-tune, generate
	$(PY) -m gpt2kw.encode data/titles.csv -o data/demo.txt --category-field category
	$(PY) -m gpt2kw.finetune data/demo.txt --run-name demo $(DEMO)
	$(PY) -m gpt2kw.generate --run-name demo --keywords "cats"

# Sized for about a minute on two cores.
DEMO := --steps 200 --validate-every 100 --sample-every 100 --sample-keywords cats

setup: $(INSTALLED)  ## Install gpt2kw into .venv

$(INSTALLED): setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "error: $$($(PYTHON) --version) can't be used; name one of 3.10 to 3.13: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "error: $(PYTHON) can't make environments; on Debian: apt install python3-venv" >&2; exit 2; }
	@# An old pip may try versions for an hour where a new one sees at once which fit.
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --editable '.[dev]'
	@touch $@

encode: setup  ## DATA to training text in TEXT
	$(PY) -m gpt2kw.encode $(DATA) -o $(TEXT) $(ENCODE)

finetune: setup $(filter data/titles.txt,$(TEXT))  ## TEXT to a fine-tuned MODEL in checkpoint/RUN; goes on where it stopped
	$(PY) -m gpt2kw.finetune $(TEXT) --model $(MODEL) --run-name $(RUN) --steps $(STEPS) $(FINETUNE)

# The sample titles are encoded when there is no text of them yet; any other text is the user's.
data/titles.txt:
	$(MAKE) encode DATA=data/titles.csv TEXT=data/titles.txt

generate: setup  ## New texts about KEYWORDS from checkpoint/RUN
	$(PY) -m gpt2kw.generate --keywords "$(KEYWORDS)" --run-name $(RUN) $(GENERATE)

evaluate: setup  ## Measure checkpoint/RUN on the validation text of TEXT
	$(PY) -m gpt2kw.evaluate $(TEXT:.txt=.val.txt) --run-name $(RUN) $(EVALUATE)

export: setup  ## checkpoint/RUN to FOLDER, for transformers and other tools
	$(PY) -m gpt2kw.export $(RUN) $(FOLDER) $(EXPORT)

# Three to four hours on two cores that multiply bfloat16 (amx_bf16 in /proc/cpuinfo), twice as long
# on others; most of it is training. What was fetched stays in models/recipe/build, and a second call
# goes on where the first stopped. Shorter, for a model that uses less: see STAGE1_STEPS below.
mini: setup  ## Make models/mini anew from public texts; with SHARED=FOLDER also from the texts there
	$(PY) -m pip install --quiet --editable '.[recipe]'
	$(PY) models/recipe/fetch.py $(if $(SHARED),--shared $(SHARED))
	$(PY) models/recipe/clean.py
	$(PY) -m gpt2kw.encode $(RECIPE)/records.jsonl -o $(RECIPE)/texts.txt $(KINDS)
	$(PY) -m gpt2kw.encode $(RECIPE)/titles.jsonl -o $(RECIPE)/titles.txt $(KINDS)
	$(PY) -m gpt2kw.finetune $(RECIPE)/texts.txt --model new --run-name mini-stage1 $(STAGE1)
	$(PY) -m gpt2kw.finetune $(RECIPE)/titles.txt --model checkpoint/mini-stage1 --run-name mini-stage2 $(STAGE2)
	$(call WRITE,1,checkpoint/mini-stage2,1,16)
	$(call LEARN,1,checkpoint/mini-stage2)
	$(call WRITE,2,checkpoint/mini-own-1,0.9,12)
	$(call LEARN,2,checkpoint/mini-own-1)
	$(call WRITE,3,checkpoint/mini-own-2,0.8,16)
	$(call CHOOSE,3,checkpoint/mini-own-2)
	$(call LEARN,3,checkpoint/mini-own-2,--chosen-by critic)
	$(PY) -m gpt2kw.export mini-own-3 $(RECIPE)/mini --precision float16 --temperature 0.5 --overwrite
	$(PY) models/recipe/rounded.py $(RECIPE)/mini
	@# The card is written by hand.
	rm $(RECIPE)/mini/README.md
	cp $(RECIPE)/mini/* models/mini/
	$(PY) -m gpt2kw.evaluate $(RECIPE)/titles.val.txt --model models/mini --keyword-mode plain guarantee \
	  --prompts 300 --judge trigrams --training $(RECIPE)/titles.txt -o $(RECIPE)/evaluation

RECIPE := models/recipe/build
KINDS := --category-field kind --body-field body --validation-fraction 0.03
# How long mini learns: from all texts, from titles, and in each round from what it writes itself.
STAGE1_STEPS ?= 13300
STAGE2_STEPS ?= 400
OWN_STEPS ?= 520 600 750
# More options of own.py, such as fewer lists of keywords to write about.
WISHES ?=
STAGE1 = --steps $(STAGE1_STEPS) --batch-size 128 --learning-rate 0.0012 --warmup-steps 200 \
  --weight-decay 0.1 --dropout 0 --validate-every 300 --validation-documents 1500 --save-every 150 \
  --sample-every 600 --sample-keywords "cats garden" --keyword-weight 2
# Without a category it shall write titles: so half of them are shown without theirs.
STAGE2 = --steps $(STAGE2_STEPS) --batch-size 128 --learning-rate 0.0003 --warmup-steps 20 \
  --weight-decay 0.1 --dropout 0.1 --category-dropout 0.5 --validate-every 50 --save-every 50 \
  --validation-documents 2000

# A round in which mini learns from what it writes itself. First it writes: the round's number, the
# model, the temperature, and the texts for each list of keywords.
define WRITE
$(PY) models/recipe/own.py wishes --round $(1) $(WISHES)
$(PY) -m gpt2kw.generate --model $(2) --prompts $(RECIPE)/wishes-$(1).jsonl --keyword-mode plain \
  --temperature $(3) --top-k 0 --nsamples $(4) --seed $(1) --batch-size 512 -o $(RECIPE)/written-$(1).jsonl
endef
# Then, in the last round, a critic ranks what there is, and mini writes about hard lists: the number
# and the model.
define CHOOSE
$(PY) models/recipe/critic.py --round $(1) --model $(2)
$(PY) models/recipe/own.py hard --round $(1)
$(PY) -m gpt2kw.generate --model $(2) --prompts $(RECIPE)/hard-$(1).jsonl --nsamples 1 --seed $(1) \
  --batch-size 256 -o $(RECIPE)/guaranteed-$(1).jsonl
endef
# And it learns: the number, the model, and how texts are chosen.
define LEARN
$(PY) models/recipe/own.py mix --round $(1) $(3)
$(PY) -m gpt2kw.finetune $(RECIPE)/own-$(1).txt --model $(2) --run-name mini-own-$(1) $(ATTENTION) \
  --learning-rate 0.0007 --steps $(word $(1),$(OWN_STEPS))
endef
ATTENTION := --only-train-attention --batch-size 128 --warmup-steps 20 --dropout 0 --category-dropout 0 \
  --validate-every 0 --save-every 350 --sample-every 0

test: setup  ## Run the tests
	$(PY) -m pytest -n 2 --dist loadfile

lint: setup  ## Check style and form
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: setup  ## Mend style and form
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: setup $(PEERS)/installed  ## Measure speed and memory, see tests/benchmarks/README.md
	$(PY) -m pip install --quiet --editable '.[bench]'
	$(PY) tests/benchmarks/encode.py
	$(PY) tests/benchmarks/finetune.py --peers $(PEERS)/bin/python
	$(PY) tests/benchmarks/generate.py --peers $(PEERS)/bin/python

# The tools that gpt2kw is compared with: some GB, most of it torch's CUDA libraries.
$(PEERS)/installed: tests/benchmarks/peers/requirements.txt
	@$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS)/bin/python -m pip install --quiet --requirement $<
	@touch $@

clean:  ## Remove environments and what was made from the sample titles; your runs stay
	rm -rf $(VENV) $(PEERS) build *.egg-info .pytest_cache .ruff_cache .hypothesis data/titles.txt data/titles.val.txt data/demo.txt data/demo.val.txt

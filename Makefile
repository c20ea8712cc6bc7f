# pip reads where else to look for packages: for a PyTorch without CUDA, see the README
export PIP_EXTRA_INDEX_URL

# Two commands do all the set-up: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
CLIPS ?= demo/clips/clips.csv
DATASET ?= demo/dataset
# of its sample of most motion, a loop (.gif) and a page on which it can be pulled (.html)
SHOWN ?= $(DATASET)-moving
# what make bench measures, and how long its videos are: 12 s keep it under 20 minutes
BENCHMARKS ?= extract memory spectrum shards mechanisms statistics page loader flow splatting
BENCH_SECONDS ?= 12

# one thread each, so that they do not wait for each other and sums come out alike
PROMISES := docs/dev/promises.md
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: install demo test test-all test-full test-faults check lint types bench docs clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Quiver needs Python 3.11 or newer; name one with make PYTHON=...")'
	@echo "installing into .venv; PyTorch and Ray are large: several GB with CUDA, 2.9 GB without"
	@echo "(make install PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu takes the small one)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo/clips/clips.csv: | $(INSTALLED)
	$(BIN)/quiver make-clips --out demo/clips --seconds 7

ifeq ($(CLIPS),demo/clips/clips.csv)
demo: demo/clips/clips.csv
endif
demo: $(INSTALLED)
	$(BIN)/quiver extract-flow --clips "$(CLIPS)" --out "$(DATASET)" --windows-per-shard 16
	$(BIN)/quiver report-statistics "$(DATASET)"
	$(BIN)/quiver animate --motion "$(DATASET)" --magnify 2 --seconds 4 --out "$(SHOWN).gif"
	$(BIN)/quiver export-page --motion "$(DATASET)" --out "$(SHOWN).html"
	@echo "the dataset is in $(DATASET); open $(DATASET)/report.html, $(SHOWN).gif and $(SHOWN).html in a browser"

# under three minutes on two cores; what is slower is left to make check
test: $(INSTALLED)
	$(PYTEST) -m "not slow"

# all but what only a full run does
test-all: $(INSTALLED)
	$(PYTEST)

# every case of every test, in about an hour on two cores
test-full: $(INSTALLED)
	$(PYTEST) --full

# Every fault as often as is promised, in some hours, promise by promise; make test-faults PART=P14 runs
# one part. What held so far is then written to $(PROMISES).
PARTS := P1,P12,P15 P2 P3,P4 P5 P6,P7,P8 P9,P10 P11 P13,P16,P17 P14 P18,P19,P20,P21 P22,P23,P24 P25 P26
PART ?= $(PARTS)
test-faults: $(INSTALLED)
	failed=0; for part in $(PART); do \
	  QUIVER_FAULTS=full $(BIN)/python -m pytest --full --promises $$part --junitxml=build/faults-$$part.xml || failed=1; \
	done; $(BIN)/python -m tests.faults.table $(PROMISES) build/faults-*.xml && exit $$failed

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/pyright

check: lint types test-all

bench: $(INSTALLED)
	for name in $(BENCHMARKS); do \
	  case $$name in extract) options="--seconds $(BENCH_SECONDS) --windows 3";; *) options="";; esac; \
	  [ ! -f benchmarks/$$name.py ] || $(BIN)/python -m benchmarks.$$name $$options || exit 1; \
	done
	$(BIN)/python -m benchmarks.report

# the documentation as a site in site/, with its links checked and its references written anew
docs: $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python docs/generate_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv demo site

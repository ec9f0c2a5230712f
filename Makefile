# twinspool: three layers, fs/ -> sync/ -> meta/, one program.
#
#   make                 the program, in this folder
#   make check           all tests (scripts/check installs what they need first)
#   make asan            the same tests under AddressSanitizer and UBSan
#   make tsan            the same tests under ThreadSanitizer: the program of every mount with them;
#                        make tsan WHAT="unit sim mount/exercise" for some (docs/testing.md)
#   make valgrind        the unit tests under valgrind's memcheck
#   make fuzz            every decoder's fuzzer for FUZZ_SECONDS each
#   make lint            format, layers, manual pages, static checks
#   make install         PREFIX, DESTDIR
#
# O=DIR builds elsewhere; CC=clang works; FAULTS=1 compiles the named crash points in. Other flags
# than the last time build everything anew.

O ?= build
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 600
# Which tests check runs: groups, names, parts of names; all if empty.
WHAT ?=

LIBS := fuse3 openssl zlib sqlite3
PKG := $(shell pkg-config --cflags $(LIBS))
LDLIBS := $(shell pkg-config --libs $(LIBS)) -lpthread

WARN := -Wall -Wextra -Werror -Wshadow -Wmissing-prototypes -Wstrict-prototypes \
	-Wpointer-arith -Wwrite-strings -Wvla
CFLAGS ?= -O2 -g
ALL_CFLAGS := -std=c11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DFUSE_USE_VERSION=314 \
	$(WARN) $(CFLAGS) $(SAN) $(PKG) -I. -fno-strict-aliasing
# The sanitizers' own code misleads gcc's view of what can happen; the plain builds have no such leave.
ifneq ($(SAN),)
ALL_CFLAGS += -Wno-unknown-warning-option -Wno-format-truncation -Wno-maybe-uninitialized -Wno-stringop-overflow
endif
ifdef FAULTS
ALL_CFLAGS += -DTWINSPOOL_FAULTS
endif

META := $(wildcard meta/base/*.c meta/*.c)
SYNC := $(wildcard sync/*.c sync/duty/*.c)
FS := $(filter-out fs/main.c,$(wildcard fs/*.c))
TESTLIB := $(wildcard tests/lib/*.c)
SIMLIB := $(filter-out tests/sim/test_%,$(wildcard tests/sim/*.c))
UNIT := $(wildcard tests/unit/test_*.c tests/sim/test_*.c)
FUZZ := $(wildcard tests/fuzz/fuzz_*.c)
TOOLS := $(wildcard tests/mount/*.c tests/cyrus/*.c tests/bench/*.c)

obj = $(patsubst %.c,$(O)/%.o,$(1))
UNIT_BIN := $(patsubst %.c,$(O)/%,$(UNIT))
TOOL_BIN := $(patsubst %.c,$(O)/%,$(TOOLS))
FUZZ_BIN := $(patsubst %.c,$(O)/%,$(FUZZ))
LIB := $(O)/libtwinspool.a

ifeq ($(O),build)
PROGRAM := twinspool
else
PROGRAM := $(O)/twinspool
endif

.PHONY: all tests check asan tsan valgrind fuzz fuzzers lint format install clean force
.DELETE_ON_ERROR:
.SECONDARY:

all: $(PROGRAM)

$(PROGRAM): $(O)/fs/main.o $(LIB)
	$(CC) $(SAN) $(LDFLAGS) -o $@ $^ $(LDLIBS)
	ln -sf twinspool $(dir $@)mount.fuse.twinspool
	ln -sf twinspool $(dir $@)umount.fuse.twinspool

$(LIB): $(call obj,$(META) $(SYNC) $(FS))
	rm -f $@
	ar rcs $@ $^

# Changes when compiler or flags do.
$(O)/flags: force
	@mkdir -p $(@D)
	@echo '$(CC) $(ALL_CFLAGS)' | cmp -s - $@ || echo '$(CC) $(ALL_CFLAGS)' >$@

$(O)/%.o: %.c $(O)/flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(UNIT_BIN): $(O)/%: $(O)/%.o $(call obj,$(TESTLIB)) $(LIB)
	$(CC) $(SAN) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(O)/tests/sim/test_pair $(O)/tests/sim/test_power $(O)/tests/sim/test_level $(O)/tests/unit/test_round: \
	$(call obj,$(SIMLIB))

# The recorder of tests/sim/power.h for any program.
$(O)/tests/sim/powerlog.so: tests/sim/powerlog.c $(O)/flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -fPIC -shared -o $@ $< -ldl -lpthread

$(TOOL_BIN): $(O)/%: $(O)/%.o
	$(CC) $(SAN) $(LDFLAGS) -o $@ $^ $(LDLIBS)

tests: all $(UNIT_BIN) $(TOOL_BIN) $(O)/tests/sim/powerlog.so

check: tests
	tests/run --build $(O) --program $(PROGRAM) $(WHAT)

asan:
	TWINSPOOL_SLOW=5 $(MAKE) O=$(O)/asan SAN="-fsanitize=address,undefined -fno-sanitize-recover=all" \
		CFLAGS="-O1 -g -fno-omit-frame-pointer" check

tsan:
	TWINSPOOL_SLOW=5 $(MAKE) O=$(O)/tsan SAN="-fsanitize=thread" CFLAGS="-O1 -g" check

# Slow: what the sanitizers see is not looked for twice, so it is the unit tests alone.
valgrind: tests
	TWINSPOOL_SLOW=30 tests/run --build $(O) --program $(PROGRAM) --jobs 2 \
		--under "valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite" \
		$(or $(WHAT),unit)

# The fuzzers are built whole with clang, library included, so that coverage guides them.
fuzzers:
	$(MAKE) O=$(O)/fuzz CC=clang CFLAGS="-O1 -g" \
		SAN="-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all" \
		fuzz-binaries

.PHONY: fuzz-binaries
fuzz-binaries: $(FUZZ_BIN)

$(FUZZ_BIN): $(O)/%: $(O)/%.o $(LIB)
	$(CC) -fsanitize=fuzzer,address,undefined $(LDFLAGS) -o $@ $^ $(LDLIBS)

fuzz: fuzzers
	tests/fuzz/run --build $(O)/fuzz --seconds $(FUZZ_SECONDS)

# What lint looks at; an error where git names nothing, or it would pass on nothing.
named = files=$$(git ls-files $(1)) && test -n "$$files"

lint:
	scripts/check-layers
	$(call named,'*.c' '*.h') && clang-format --dry-run -Werror $$files
	mandoc -T lint -W warning docs/man/*.[0-9]
	cppcheck -q --enable=warning,portability --std=c11 -D_GNU_SOURCE -I. \
		--suppressions-list=.cppcheck --error-exitcode=1 -j2 meta sync fs
	$(call named,scripts tests .ci) && shellcheck $$(grep -lE '^#!/bin/(ba)?sh' $$files)
	$(call named,scripts tests) && \
		pyflakes3 $$(grep -lE '^#!/usr/bin/env python3' $$files) $$(git ls-files '*.py')

format:
	clang-format -i $$(git ls-files '*.c' '*.h')

install: all
	install -D -m 755 $(PROGRAM) $(DESTDIR)$(PREFIX)/sbin/twinspool
	install -d $(DESTDIR)/sbin
	ln -sf $(PREFIX)/sbin/twinspool $(DESTDIR)/sbin/mount.fuse.twinspool
	ln -sf $(PREFIX)/sbin/twinspool $(DESTDIR)/sbin/umount.fuse.twinspool
	install -D -m 644 docs/man/twinspool.8 $(DESTDIR)$(PREFIX)/share/man/man8/twinspool.8
	install -D -m 644 docs/man/twinspool.conf.5 \
		$(DESTDIR)$(PREFIX)/share/man/man5/twinspool.conf.5

clean:
	rm -rf $(O) twinspool mount.fuse.twinspool umount.fuse.twinspool

-include $(O)/tests/sim/powerlog.d $(patsubst %.c,$(O)/%.d,$(META) $(SYNC) $(FS) fs/main.c $(TESTLIB) $(SIMLIB) \
	$(UNIT) $(TOOLS) $(FUZZ))

"""A small CMake project in real git repositories, laid out like TVM v0.23's.

What the build meets in TVM is here on a scale of seconds: a superproject with submodules, one of
them nested; config.cmake read from the build folder first; USE_LLVM as a command that is asked for
flags and libraries; ccache where it is found; two shared libraries; a Python package that
scikit-build-core makes and that loads the library by ctypes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HOST = "https://github.com"  # public addresses, as in TVM's .gitmodules: builds need a mirror
FFI = "3rdparty/tvm-ffi"
NESTED = "3rdparty/tvm-ffi/3rdparty/dlpack"
CORE = "3rdparty/dmlc-core"

# So much of a repository cannot be compressed that a transfer can be cut in its middle.
PADDING_BYTES = 2_000_000

CMAKE = """\
cmake_minimum_required(VERSION 3.18)
project(tvm C CXX)

if(EXISTS ${CMAKE_BINARY_DIR}/config.cmake)
  include(${CMAKE_BINARY_DIR}/config.cmake)
elseif(EXISTS ${CMAKE_SOURCE_DIR}/config.cmake)
  include(${CMAKE_SOURCE_DIR}/config.cmake)
endif()

macro(tvm_option name description value)
  if(DEFINED ${name})
    set(${name} "${${name}}" CACHE STRING "${description}" FORCE)
  else()
    set(${name} "${value}" CACHE STRING "${description}")
  endif()
endmacro()
tvm_option(USE_CUDA "Build with CUDA" OFF)
tvm_option(USE_LLVM "llvm-config and its options" OFF)
tvm_option(USE_CCACHE "ccache where it is found" AUTO)
tvm_option(HIDE_PRIVATE_SYMBOLS "Compile with -fvisibility=hidden." OFF)
tvm_option(TVM_BUILD_PYTHON_MODULE "Install for scikit-build-core" OFF)

if(USE_CCACHE AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(CCACHE_FOUND ccache)
  if(CCACHE_FOUND)
    set(CMAKE_C_COMPILER_LAUNCHER ccache)
    set(CMAKE_CXX_COMPILER_LAUNCHER ccache)
  endif()
endif()

set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
if(CMAKE_BUILD_TYPE STREQUAL "Debug")
  set(CMAKE_CXX_FLAGS "-O0 -g ${CMAKE_CXX_FLAGS}")
else()
  set(CMAKE_CXX_FLAGS "-O2 ${CMAKE_CXX_FLAGS}")
endif()
if(HIDE_PRIVATE_SYMBOLS)
  set(CMAKE_CXX_FLAGS "-fvisibility=hidden ${CMAKE_CXX_FLAGS}")
endif()

foreach(folder dmlc-core/include tvm-ffi/include tvm-ffi/3rdparty/dlpack/include)
  if(NOT IS_DIRECTORY ${CMAKE_SOURCE_DIR}/3rdparty/${folder})
    message(FATAL_ERROR "a submodule is missing: 3rdparty/${folder}")
  endif()
  include_directories(SYSTEM 3rdparty/${folder})
endforeach()
include_directories(include)

macro(ask variable)
  execute_process(COMMAND ${LLVM_CONFIG} ${ARGN} OUTPUT_VARIABLE ${variable}
    OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE code)
  if(NOT code STREQUAL "0")
    message(FATAL_ERROR "Fatal error executing: ${LLVM_CONFIG} ${ARGN}")
  endif()
endmacro()
set(sources src/arith.cc src/ir.cc src/info.cc)
if(USE_LLVM)
  set(LLVM_CONFIG ${USE_LLVM})
  separate_arguments(LLVM_CONFIG)
  ask(libfiles --libfiles core support)
  ask(system_libs --system-libs core support)
  ask(cxxflags --cxxflags)
  ask(TVM_INFO_LLVM_VERSION --version)
  string(REGEX MATCHALL "-D[A-Za-z0-9_]+" definitions "${cxxflags}")
  string(REGEX MATCHALL "-I[^ ]+" includes "${cxxflags}")
  string(REPLACE "-I" "" includes "${includes}")
  separate_arguments(system_libs)
  list(FILTER system_libs INCLUDE REGEX "^-l") # Debian's names one by its path, which nothing uses
  separate_arguments(libfiles)
  add_definitions(${definitions})
  include_directories(SYSTEM ${includes})
  list(APPEND sources src/llvm.cc)
endif()
set_property(SOURCE src/info.cc PROPERTY COMPILE_DEFINITIONS
  TVM_INFO_USE_LLVM="${USE_LLVM}"
  TVM_INFO_USE_CUDA="${USE_CUDA}"
  TVM_INFO_LLVM_VERSION="${TVM_INFO_LLVM_VERSION}")

# As from v0.26 on: in every command line, and given by scikit-build-core unless it is said before.
if(NOT DEFINED TVM_VERSION AND DEFINED SKBUILD_PROJECT_VERSION_FULL)
  set(TVM_VERSION "${SKBUILD_PROJECT_VERSION_FULL}")
endif()
if(DEFINED TVM_VERSION)
  add_compile_definitions(TVM_VERSION="${TVM_VERSION}")
endif()

add_library(tvm SHARED ${sources})
target_link_libraries(tvm PRIVATE ${libfiles} ${system_libs})
add_library(tvm_runtime SHARED src/arith.cc)
if(HIDE_PRIVATE_SYMBOLS)
  target_link_options(tvm PRIVATE -Wl,--exclude-libs,ALL)
endif()

install(TARGETS tvm tvm_runtime DESTINATION lib)
if(TVM_BUILD_PYTHON_MODULE)
  set_target_properties(tvm tvm_runtime PROPERTIES INSTALL_RPATH "\\$ORIGIN")
  install(TARGETS tvm tvm_runtime DESTINATION ".")
endif()
"""

PYPROJECT = """\
[build-system]
requires = ["scikit-build-core>=0.10.0"]
build-backend = "scikit_build_core.build"

[project]
name = "tvm"
version = "0.23.0"
requires-python = ">=3.9"

[tool.scikit-build]
cmake.source-dir = "."
cmake.build-type = "Release"
wheel.py-api = "py3"
build-dir = "build"
cmake.args = ["-DTVM_BUILD_PYTHON_MODULE=ON"]
wheel.packages = ["python/tvm"]
wheel.install-dir = "tvm"
"""

PYTHON = {
    "python/tvm/__init__.py": """\
from tvm import libinfo, support
from tvm.base import _LIB

__version__ = libinfo.__version__
""",
    "python/tvm/libinfo.py": """\
import os

__version__ = "0.23.0"


def find_lib_path():
    here = os.path.dirname(os.path.realpath(__file__))
    names = ("libtvm.so", "libtvm_runtime.so")
    return [path for name in names if os.path.isfile(path := os.path.join(here, name))]
""",
    "python/tvm/base.py": """\
import ctypes

from tvm import libinfo

_LIB = ctypes.CDLL(libinfo.find_lib_path()[0], ctypes.RTLD_GLOBAL)
""",
    "python/tvm/support.py": """\
import ctypes

from tvm.base import _LIB

_LIB.TVMSmallInfo.restype = ctypes.c_char_p


def libinfo():
    text = _LIB.TVMSmallInfo().decode()
    return dict(line.split("=", 1) for line in text.splitlines())
""",
}

SOURCES = {
    "src/arith.cc": """\
#include <tvm/small.h>
extern "C" TVM_DLL int TVMSmallAdd(int a, int b) { return a + b; }
""",
    "src/ir.cc": """\
#include <map>
#include <string>
#include <tvm/small.h>
extern "C" TVM_DLL int TVMSmallCount(const char* text) {
  std::map<char, int> counts;
  for (char c : std::string(text)) counts[c]++;
  return static_cast<int>(counts.size());
}
""",
    "src/info.cc": """\
#include <tvm/small.h>
extern "C" TVM_DLL const char* TVMSmallInfo() {
  return "USE_LLVM=" TVM_INFO_USE_LLVM "\\nUSE_CUDA=" TVM_INFO_USE_CUDA
         "\\nLLVM_VERSION=" TVM_INFO_LLVM_VERSION "\\nDMLC=" DMLC_NAME "\\nFFI=" FFI_NAME
         "\\nDLPACK=" DLPACK_NAME "\\nBUILT=" __DATE__ " " __TIME__ "\\n";
}
""",
    "src/llvm.cc": """\
#include <llvm/IR/LLVMContext.h>
#include <llvm/IR/Module.h>
#include <tvm/small.h>
extern "C" TVM_DLL int TVMSmallModule() {
  llvm::LLVMContext context;
  llvm::Module module(SMALL_SALT, context);
  return module.getName().size();
}
""",
}

SMALL_H = """\
#pragma once
#include <dlpack/dlpack.h>
#include <dmlc/base.h>
#include <tvm/ffi/base.h>
#define TVM_DLL __attribute__((visibility("default")))
#define SMALL_SALT "{salt}"
"""


@dataclass(frozen=True)
class Project:
    """The repositories, bare, under ``root``/``owner``; ``gitlinks`` is path to commit, nested
    ones too. ``repositories`` is path to repository name."""

    root: Path
    owner: str
    commit: str
    gitlinks: Mapping[str, str]
    repositories: Mapping[str, str]

    @property
    def url(self) -> str:
        return address(self.owner, "tvm")


def address(owner: str, name: str) -> str:
    """The public address of a repository, which only a mirror can serve here."""
    return f"{HOST}/{owner}/{name}"


def write(root: Path, owner: str, salt: str | None = None) -> Project:
    """Make the repositories, all their content unlike that of any other ``owner``.

    So that neither a kept checkout nor ccache knows anything of it beforehand. With a ``salt`` what
    is compiled is the same each time; the repositories, and so their commits, never are.
    """
    salt = salt or f"{owner}-{os.urandom(8).hex()}"
    dlpack = commit(
        root / owner / "dlpack.git",
        {"include/dlpack/dlpack.h": '#pragma once\n#define DLPACK_NAME "dlpack"\n', "salt": salt},
    )
    ffi = commit(
        root / owner / "tvm-ffi.git",
        {
            ".gitmodules": gitmodules(owner, {"3rdparty/dlpack": "dlpack"}),
            "include/tvm/ffi/base.h": '#pragma once\n#define FFI_NAME "tvm-ffi"\n',
            "padding.bin": os.urandom(PADDING_BYTES),
        },
        {"3rdparty/dlpack": dlpack},
    )
    core = commit(
        root / owner / "dmlc-core.git",
        {"include/dmlc/base.h": '#pragma once\n#define DMLC_NAME "dmlc-core"\n', "salt": salt},
    )
    top = commit(
        root / owner / "tvm.git",
        {
            ".gitmodules": gitmodules(owner, {FFI: "tvm-ffi", CORE: "dmlc-core"}),
            "CMakeLists.txt": CMAKE,
            "pyproject.toml": PYPROJECT,
            "include/tvm/small.h": SMALL_H.replace("{salt}", salt),
            **PYTHON,
            **SOURCES,
        },
        {FFI: ffi, CORE: core},
    )
    gitlinks = {CORE: core, FFI: ffi, NESTED: dlpack}
    repositories = {CORE: "dmlc-core", FFI: "tvm-ffi", NESTED: "dlpack"}
    return Project(root, owner, top, gitlinks, repositories)


def gitmodules(owner: str, paths: Mapping[str, str]) -> str:
    """.gitmodules, for path to repository name."""
    return "".join(
        f'[submodule "{path}"]\n\tpath = {path}\n\turl = {address(owner, name)}.git\n'
        for path, name in paths.items()
    )


def commit(
    repository: Path, files: Mapping[str, str | bytes], gitlinks: Mapping[str, str] | None = None
) -> str:
    """Make a bare repository's next commit, of exactly these files and gitlinks; gives its sha."""
    if not repository.exists():
        git("init", "--quiet", "--bare", "--initial-branch=main", str(repository), at=None)
    git("read-tree", "--empty", at=repository)
    for path, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        blob = git("hash-object", "-w", "--stdin", at=repository, stdin=data)
        git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", at=repository)
    for path, sha in (gitlinks or {}).items():
        git("update-index", "--add", "--cacheinfo", f"160000,{sha},{path}", at=repository)
    tree = git("write-tree", at=repository)
    sha = git("commit-tree", "-m", "what a test needs", tree, at=repository)
    git("update-ref", "refs/heads/main", sha, at=repository)
    return sha


def git(*words: str, at: Path | None, stdin: bytes = b"") -> str:
    """Run git, free of the user's own settings, in a bare repository; gives what it printed."""
    place = () if at is None else (f"--git-dir={at}",)
    person = {"NAME": "Test", "EMAIL": "test@example.invalid", "DATE": "2026-01-01T00:00:00Z"}
    environ = {
        **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{key}": person[key] for who in ("AUTHOR", "COMMITTER") for key in person},
    }
    done = subprocess.run(
        ["git", *place, *words], input=stdin, env=environ, capture_output=True, check=True
    )
    return done.stdout.decode().strip()

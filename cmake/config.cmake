# How TVM is configured when it is built from source. TVM's own CMakeLists reads this file from the
# build folder first, so the build copies it there.
#
# The profiles that compile TVM use it (docker/Dockerfile, bench/build/compile.py).
#
# Given from outside, because docker/pins.toml knows them and this file must not:
#   GPT_FRONTEND_BUILD_TYPE           Debug where nothing is said
#   GPT_FRONTEND_LLVM_CONFIG          the path of llvm-config
#   GPT_FRONTEND_CUDA                 ON or OFF
#   GPT_FRONTEND_CUDA_ARCHITECTURES   for example 80;86, only where CUDA is ON
# from the cache (-D) or, under the same names, from the environment.

# --- what comes from outside ---

foreach(name BUILD_TYPE LLVM_CONFIG CUDA CUDA_ARCHITECTURES)
  if(NOT DEFINED GPT_FRONTEND_${name} AND DEFINED ENV{GPT_FRONTEND_${name}})
    set(GPT_FRONTEND_${name} "$ENV{GPT_FRONTEND_${name}}")
  endif()
endforeach()

# A plain set() would do for TVM, but CMakeCache.txt would then show TVM's default beside it, and the
# contract that an image is held to reads that file.
macro(decide name value)
  set(${name} "${value}" CACHE STRING "docker: cmake/config.cmake" FORCE)
  set(${name} "${value}")
endmacro()

# Without this TVM would build without any code generator for the CPU, and say so only at run time.
if(NOT GPT_FRONTEND_LLVM_CONFIG)
  message(FATAL_ERROR "GPT_FRONTEND_LLVM_CONFIG is not set: the path of llvm-config")
endif()

# --- the compiler ---

# Debug: a benchmark of the compiler's own passes must be able to stop in them. The kernels that TVM
# generates are as fast as those of a Release build, since LLVM makes them; only compiling is slower.
if(NOT GPT_FRONTEND_BUILD_TYPE)
  set(GPT_FRONTEND_BUILD_TYPE Debug)
endif()
decide(CMAKE_BUILD_TYPE ${GPT_FRONTEND_BUILD_TYPE})

# TVM loads beside PyTorch, which brings an LLVM of its own. Linked statically and with its symbols
# hidden, ours is the one that TVM calls. --ignore-libllvm: llvm-config would prefer libLLVM.so.
decide(USE_LLVM "${GPT_FRONTEND_LLVM_CONFIG} --ignore-libllvm --link-static")
decide(HIDE_PRIVATE_SYMBOLS ON)

# --- devices ---

if(GPT_FRONTEND_CUDA)
  # "native" is CMake's default and asks the GPU, and there is none in `docker build`.
  if(NOT GPT_FRONTEND_CUDA_ARCHITECTURES)
    message(FATAL_ERROR "GPT_FRONTEND_CUDA_ARCHITECTURES is not set: for example 80;86")
  endif()
  decide(USE_CUDA ON)
  decide(CMAKE_CUDA_ARCHITECTURES "${GPT_FRONTEND_CUDA_ARCHITECTURES}")
else()
  decide(USE_CUDA OFF)
endif()

# --- what is measured stays comparable ---

# Vendor libraries would answer instead of the code that TVM generates; the wheels have none either.
decide(USE_BLAS none)
decide(USE_CUBLAS OFF)
decide(USE_CUDNN OFF)
decide(USE_CUTLASS OFF)

# The wheels have the Z3 solver. AUTO takes it where the build machine happens to have it.
decide(USE_Z3 OFF)

# Threads come from TVM's own pool, as in the wheels: OpenMP's would fight with PyTorch's.
decide(USE_OPENMP none)

# Rebuilding after a change takes about 40 minutes on 2 cores without it. AUTO: used where it is.
decide(USE_CCACHE AUTO)

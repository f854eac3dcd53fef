# How TVM is configured when it is built from source. TVM's own CMakeLists reads this file from the
# build folder first, so a profile copies it there and adds what differs in a file of its own.
#
# Today's profiles install TVM's wheels and do not use this file yet.
#
# Given from outside, because docker/pins.toml knows them and this file must not:
#   GPT_FRONTEND_LLVM_CONFIG          the path of llvm-config
#   GPT_FRONTEND_CUDA                 ON or OFF
#   GPT_FRONTEND_CUDA_ARCHITECTURES   for example 80;86, only where CUDA is ON
# from the cache (-D) or, under the same names, from the environment.

# --- what comes from outside ---

foreach(name LLVM_CONFIG CUDA CUDA_ARCHITECTURES)
  if(NOT DEFINED GPT_FRONTEND_${name} AND DEFINED ENV{GPT_FRONTEND_${name}})
    set(GPT_FRONTEND_${name} "$ENV{GPT_FRONTEND_${name}}")
  endif()
endforeach()

# Without this TVM would build without any code generator for the CPU, and say so only at run time.
if(NOT GPT_FRONTEND_LLVM_CONFIG)
  message(FATAL_ERROR "GPT_FRONTEND_LLVM_CONFIG is not set: the path of llvm-config")
endif()

# --- the compiler ---

# Debug: a benchmark of the compiler's own passes must be able to stop in them. The kernels that TVM
# generates are as fast as those of a Release build, since LLVM makes them; only compiling is slower.
set(CMAKE_BUILD_TYPE Debug)

# TVM loads beside PyTorch, which brings an LLVM of its own. Linked statically and with its symbols
# hidden, ours is the one that TVM calls. --ignore-libllvm: llvm-config would prefer libLLVM.so.
set(USE_LLVM "${GPT_FRONTEND_LLVM_CONFIG} --ignore-libllvm --link-static")
set(HIDE_PRIVATE_SYMBOLS ON)

# --- devices ---

if(GPT_FRONTEND_CUDA)
  # "native" is CMake's default and asks the GPU, and there is none in `docker build`.
  if(NOT GPT_FRONTEND_CUDA_ARCHITECTURES)
    message(FATAL_ERROR "GPT_FRONTEND_CUDA_ARCHITECTURES is not set: for example 80;86")
  endif()
  set(USE_CUDA ON)
  set(CMAKE_CUDA_ARCHITECTURES "${GPT_FRONTEND_CUDA_ARCHITECTURES}")
else()
  set(USE_CUDA OFF)
endif()

# --- what is measured stays comparable ---

# Vendor libraries would answer instead of the code that TVM generates; the wheels have none either.
set(USE_BLAS none)
set(USE_CUBLAS OFF)
set(USE_CUDNN OFF)
set(USE_CUTLASS OFF)

# Threads come from TVM's own pool, as in the wheels: OpenMP's would fight with PyTorch's.
set(USE_OPENMP none)

# Rebuilding after a change takes about 40 minutes on 2 cores without it. AUTO: used where it is.
set(USE_CCACHE AUTO)

# A server on NVIDIA GPUs; it needs the NVIDIA Container Toolkit on the host. From the root of a checkout:
#   docker build -f engines/docker/gpu.Dockerfile -t fglfast:gpu .
#   docker run --rm --gpus all --ipc=host --ulimit memlock=-1 --ulimit stack=67108864 \
#       -v "$PWD/work:/work" fglfast:gpu doctor
# torch brings its own CUDA libraries, so the image's "base" flavour is enough; it states which drivers will do.
ARG CUDA_IMAGE=nvidia/cuda:13.0.0-base-ubuntu24.04
FROM ${CUDA_IMAGE}

LABEL org.opencontainers.image.title="fglfast" \
      org.opencontainers.image.description="Federated Generative Learning: a server on NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0"

# Triton, torch.compile and DeepSpeed compile C++ against Python's headers when they run.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PIP_NO_CACHE_DIR=1 \
    PATH=/opt/venv/bin:$PATH

WORKDIR /opt/fglfast
COPY . .
# constraints.txt is left out: it pins one torch, for CPUs.
RUN python3 -m venv /opt/venv \
    && pip install torch \
    && pip install -e '.[server,gpu,tensorrt,fed,privacy,sign]' \
    && useradd --create-home fglfast \
    && install -d -o fglfast /work

USER fglfast
WORKDIR /work
ENTRYPOINT ["fglfast"]
CMD ["--help"]

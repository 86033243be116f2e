# A server on CPUs: all stages, ONNX Runtime, OpenVINO, Flower. From the root of a checkout:
#   docker build -f engines/docker/cpu.Dockerfile -t fglfast:cpu .
#   docker run --rm -v "$PWD/work:/work" fglfast:cpu demo
FROM python:3.12-slim

LABEL org.opencontainers.image.title="fglfast" \
      org.opencontainers.image.description="Federated Generative Learning: a server on CPUs" \
      org.opencontainers.image.licenses="Apache-2.0"

# torch.compile and DeepSpeed compile C++ when they run.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# PyPI's torch is the CUDA build; PyTorch's own index has the small one.
ENV PIP_NO_CACHE_DIR=1 \
    PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

WORKDIR /opt/fglfast
COPY . .
RUN pip install -c constraints.txt -e '.[server,cpu,fed,privacy,sign]' \
    && useradd --create-home fglfast \
    && install -d -o fglfast /work

USER fglfast
WORKDIR /work
ENTRYPOINT ["fglfast"]
CMD ["--help"]

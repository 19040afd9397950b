# gns on the processor. From the root of the checkout:
#   docker build -t gns .
#   docker run --rm -u "$(id -u)" -v "$PWD:/here" -w /here gns train -s data/my-scene --final-budget 300k
# A torch with CUDA, or another mirror of it: docker build --build-arg TORCH="torch --index-url URL" .

# The wheel: a compiler is needed here only.
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml CMakeLists.txt README.md LICENSE ./
COPY gns ./gns
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
# The CPU-only build of torch that pytorch.org's selector names saves several GB; the default works as well.
ARG TORCH="torch>=2.1,<2.14"
RUN set -f && pip install --no-cache-dir $TORCH
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(ls /wheels/*.whl)[plot,video]"
# Output belongs to whom -u names; without it, to this user.
RUN useradd --create-home gns
USER gns
WORKDIR /home/gns
ENTRYPOINT ["gns"]
CMD ["--help"]

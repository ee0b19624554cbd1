# The generator as a server (`refrag serve`), for one NVIDIA GPU:
#   docker build -f serve.Dockerfile -t refrag-serve .
#   docker run --gpus all -p 8000:8000 -e REFRAG_SERVE_TOKENS=... -v refrag-store:/data refrag-serve
FROM python:3.12-slim

RUN useradd --create-home refrag && mkdir /data && chown refrag /data
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY refrag_components refrag_components
COPY refrag_demo refrag_demo
COPY integrations integrations
RUN pip install --no-cache-dir ".[serve]"

USER refrag
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=300s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["refrag", "serve"]
CMD ["refrag-smollm2-135m", "--host", "0.0.0.0", "--store", "/data/vectors.sqlite"]

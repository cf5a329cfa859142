FROM python:3.11-slim-bookworm AS build
RUN python -m venv --without-pip /opt/hengdan
WORKDIR /src
COPY requirements.lock .
RUN pip --python /opt/hengdan/bin/python install --no-cache-dir --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY activities activities
COPY workflows workflows
COPY workers workers
COPY starter starter
RUN pip --python /opt/hengdan/bin/python install --no-cache-dir --no-deps .

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home hengdan
COPY --from=build /opt/hengdan /opt/hengdan
ENV PATH=/opt/hengdan/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
EXPOSE 8080
ENTRYPOINT ["hengdan"]

# Libra's server with the bundled guard: no torch, no model to fetch. It judges and serves; `libra evaluate`, which
# measures, is for an installed package.
#
#   docker build -t libra-guard:0.1.0 .
#   docker run --rm -p 127.0.0.1:8300:8300 -e LIBRA_SERVE_API_KEY="$(openssl rand -hex 32)" libra-guard:0.1.0
#
# Without a key it starts, says so, and judges for anybody who reaches the port.
FROM python:3.12-slim AS build
WORKDIR /build
# Without pip: what runs later installs nothing.
RUN python -m venv --without-pip /opt/libra
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN pip --python /opt/libra/bin/python install --no-cache-dir -c constraints.txt '.[serve]'
# What only reading Parquet and measuring need, and what they bring: more than half of all.
RUN pip --python /opt/libra/bin/python uninstall --yes pyarrow scikit-learn scipy joblib narwhals threadpoolctl

FROM python:3.12-slim
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent libra
COPY --from=build /opt/libra /opt/libra
# Inside the container every address is bound, or nothing outside could reach it; publish the port where you want it.
ENV PATH=/opt/libra/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LIBRA_SERVE_HOST=0.0.0.0 \
    LIBRA_SERVE_PORT=8300
USER 10001
EXPOSE 8300
# At the port that is set, and through no proxy that the environment names.
HEALTHCHECK --interval=15s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os; from urllib.request import ProxyHandler, build_opener; \
build_opener(ProxyHandler({})).open('http://127.0.0.1:' + os.environ['LIBRA_SERVE_PORT'] + '/healthz', timeout=2)"]
CMD ["libra", "serve"]

#!/bin/sh
# Runs once, on an empty volume: a role each for Hengdan and for Temporal, neither of which can read the other's data.
set -eu
psql --quiet --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" --dbname=postgres \
    --set=hengdan="$HENGDAN_DB_PASSWORD" --set=temporal="$TEMPORAL_DB_PASSWORD" <<'SQL'
CREATE ROLE temporal LOGIN CREATEDB PASSWORD :'temporal';
CREATE ROLE hengdan LOGIN PASSWORD :'hengdan';
CREATE DATABASE hengdan OWNER hengdan;
REVOKE CONNECT ON DATABASE hengdan FROM PUBLIC;
SQL

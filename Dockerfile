# Images of hallpass. Each stage that docker-compose.yml names is a target:
#
#   hallpass  the service and the workers: the program, the CAs of the system, and nothing else
#   people    the same with a shell and ssh, to ask, approve and log in from
#   setup     makes the secrets of docker-compose.yml
#   host      an sshd with hallpass-host
#   kms       the agent for CA keys in a cloud's KMS; PKCS#11 takes an image with the vendor's module
#
# docker build --target hallpass -t hallpass .

FROM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# Without one the programs know no version, and temporal.deployment refuses that: two
# that are different would go by one name.
ARG VERSION=
ENV CGO_ENABLED=0
RUN go build -trimpath -tags disable_grpc_modules -ldflags "-s -w ${VERSION:+-X hallpass/cli.version=${VERSION}}" -o /out/hallpass ./cmd/hallpass && \
    go build -trimpath -ldflags "-s -w ${VERSION:+-X main.version=${VERSION}}" -o /out/hallpass-host ./cmd/hallpass-host

FROM golang:1.26.8-bookworm AS build-kms
WORKDIR /src/kms
COPY kms/go.mod kms/go.sum ./
RUN go mod download
COPY kms .
ARG VERSION=
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w ${VERSION:+-X main.version=${VERSION}}" -o /out/hallpass-kms .

FROM gcr.io/distroless/static-debian12:nonroot AS kms
COPY --from=build-kms /out/hallpass-kms /usr/local/bin/hallpass-kms
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/hallpass-kms"]

FROM gcr.io/distroless/static-debian12:nonroot AS hallpass
COPY --from=build /out/hallpass /usr/local/bin/hallpass
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/hallpass"]
CMD ["worker"]

FROM debian:12-slim AS people
RUN apt-get update && \
    apt-get install -y --no-install-recommends ca-certificates openssh-client postgresql-client && \
    rm -rf /var/lib/apt/lists/* && \
    useradd --uid 65532 --create-home --shell /bin/bash hallpass && \
    echo 'GlobalKnownHostsFile /etc/hallpass/public/known_hosts' >/etc/ssh/ssh_config.d/hallpass.conf
COPY --from=build /out/hallpass /usr/local/bin/hallpass
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/hallpass"]

FROM debian:12-slim AS setup
RUN apt-get update && \
    apt-get install -y --no-install-recommends openssh-client openssl && \
    rm -rf /var/lib/apt/lists/*
COPY --from=build /out/hallpass /usr/local/bin/hallpass
COPY deploy/setup.sh /usr/local/bin/setup.sh
CMD ["/usr/local/bin/setup.sh"]

FROM debian:12-slim AS host
RUN apt-get update && \
    apt-get install -y --no-install-recommends openssh-server && \
    rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_*
COPY --from=build /out/hallpass-host /usr/local/sbin/hallpass-host
COPY deploy/host.sh /usr/local/sbin/host.sh
EXPOSE 22
CMD ["/usr/local/sbin/host.sh"]

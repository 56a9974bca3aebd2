/**
 * The one place where RPC meets Bun: listening on a unix socket or TCP, and the `fetch` that reaches such an address. The
 * server's app and the client know only Request, Response and fetch.
 *
 *   unix:/tmp/skein-1a2b/logic-k3j9.sock        http://10.0.0.7:41234
 */

import { chmodSync, existsSync, mkdirSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import { AppError } from "../errors.ts";
import { createSocketFetch } from "./socket-fetch.ts";

/** A socket's path must fit in sun_path: 108 bytes on Linux, 104 on macOS, with the closing zero. */
const SOCKET_PATH_BYTES_MAX = 103;
/** Above the longest call; Bun's default of 10 s would cut a quiet keep-alive connection and a slow answer alike. */
const IDLE_TIMEOUT_S = 120;
/** A batch is at most 1 MB of UTF-16 units, which are up to three bytes each. */
const BODY_BYTES_MAX = 4 * 1024 * 1024;

/** Where a role listens for calls of other processes. */
export interface Listen {
  /** Folder of the unix sockets; made 0700 when it does not exist. Short: a socket's whole path has at most 103 bytes. */
  readonly directory: string;
  /** "" = unix socket; else the address by which other machines reach this one: TCP on a free port. */
  readonly host: string;
}

export interface Listener {
  readonly address: string;
  /** Closes every connection, busy or not. */
  close(): Promise<void>;
}

export type Handle = (request: Request) => Response | Promise<Response>;

/**
 * Listens. `name` is the socket's file name; a file that a killed process left there is replaced. Throws AppError CONFLICT when
 * a live process listens there, INVALID when the path is too long.
 */
export async function listenAt({ directory, host }: Listen, name: string, handle: Handle): Promise<Listener> {
  const shared = { fetch: handle, maxRequestBodySize: BODY_BYTES_MAX, idleTimeout: IDLE_TIMEOUT_S };
  if (host !== "") {
    const server = Bun.serve({ ...shared, hostname: host, port: 0 });
    const shown = host.includes(":") ? `[${host}]` : host;
    return { address: `http://${shown}:${server.port}`, close: () => server.stop(true) };
  }
  const path = join(directory, name);
  if (Buffer.byteLength(path) > SOCKET_PATH_BYTES_MAX) {
    throw new AppError("INVALID", `the socket path ${path} is longer than ${SOCKET_PATH_BYTES_MAX} bytes`);
  }
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  await removeLeftOver(path);
  // Bun's types allow idleTimeout for TCP only; at run time a unix socket needs it too, else a silent call is cut after 10 s.
  const options: { unix: string; fetch: Handle } = { ...shared, unix: path };
  const server = Bun.serve(options);
  chmodSync(path, 0o600);
  return { address: `unix:${path}`, close: () => server.stop(true) };
}

/** Stopping a server removes its file; kill -9 leaves it, and then nobody accepts there. */
async function removeLeftOver(path: string): Promise<void> {
  if (!existsSync(path)) return;
  let isAlive = true;
  try {
    const socket = await Bun.connect({ unix: path, socket: { data: () => undefined } });
    socket.end();
  } catch {
    isAlive = false;
  }
  if (isAlive) throw new AppError("CONFLICT", `another process listens on ${path}`);
  unlinkSync(path);
}

/** The base URL and the fetch for a registered address. */
export function reach(address: string): { readonly url: string; readonly fetch: typeof fetch } {
  if (address.startsWith("unix:")) {
    return { url: "http://localhost", fetch: createSocketFetch({ unix: address.slice("unix:".length) }) };
  }
  const { hostname, port } = new URL(address);
  return { url: address, fetch: createSocketFetch({ hostname: hostname.replace(/^\[|\]$/g, ""), port: Number(port) }) };
}

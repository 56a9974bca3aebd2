/**
 * `fetch` to one server over kept-alive connections, written in this thread. Bun's own fetch hands every request to its HTTP
 * thread and takes the answer back from there: a small call costs 33 to 58 µs of CPU so, and 18 µs here, at half the latency.
 *
 * It speaks what Bun.serve answers to a POST of ours: HTTP/1.1, a status line, headers, a body of a known length or in chunks.
 * One request at a time per connection. A connection that ends between requests is replaced; one that ends with a request under
 * way rejects it, and whether that may have been executed is the caller's to judge (target.ts).
 */

/** Connections kept open while idle: the lanes of a target use one or two, a burst more. */
const IDLE_MAX = 8;
/** An answer's head longer than this is not one of ours. */
const HEAD_BYTES_MAX = 16 * 1024;
/** A page of archived history is 1 000 entries of at most some 20 KB. */
const BODY_BYTES_MAX = 64 * 1024 * 1024;
const HEAD_END = Buffer.from("\r\n\r\n");
const LINE_END = Buffer.from("\r\n");

export type Address = { readonly unix: string } | { readonly hostname: string; readonly port: number };

interface Exchange {
  readonly resolve: (response: Response) => void;
  readonly reject: (error: unknown) => void;
}

/** Opens nothing before the first call. */
export function createSocketFetch(address: Address): typeof fetch {
  const idle: Connection[] = [];
  const host = "unix" in address ? "localhost" : `${address.hostname}:${address.port}`;

  const send = (url: string | URL | Request, init: RequestInit = {}): Promise<Response> => {
    const { signal } = init;
    if (signal?.aborted) return Promise.reject(signal.reason);
    const request = format(String(url), init, host);
    return new Promise((resolve, reject) => {
      const connection = idle.pop() ?? new Connection(address, idle);
      const abort = () => connection.fail(signal!.reason);
      signal?.addEventListener("abort", abort, { once: true });
      const settled = () => signal?.removeEventListener("abort", abort);
      connection.exchange(request, {
        resolve(response) {
          settled();
          resolve(response);
        },
        reject(error) {
          settled();
          reject(error);
        },
      });
    });
  };
  return Object.assign(send, { preconnect: fetch.preconnect });
}

function format(url: string, init: RequestInit, host: string): string {
  const { pathname, search } = new URL(url);
  const body = (init.body ?? "") as string;
  let head = `${init.method ?? "GET"} ${pathname}${search} HTTP/1.1\r\nhost: ${host}\r\ncontent-length: ${Buffer.byteLength(body)}\r\n`;
  for (const [name, value] of headersOf(init.headers)) head += `${name}: ${value}\r\n`;
  return `${head}\r\n${body}`;
}

function headersOf(headers: RequestInit["headers"]): Iterable<readonly string[]> {
  if (headers === undefined) return [];
  if (headers instanceof Headers || Array.isArray(headers)) return headers as Iterable<readonly string[]>;
  return Object.entries(headers as Record<string, string>);
}

class Connection {
  readonly #idle: Connection[];
  #socket: Bun.Socket<undefined> | undefined;
  #exchange: Exchange | undefined;
  #unsent: Buffer | undefined;
  #received: Buffer | undefined;
  #isOver = false;
  #error: unknown;

  constructor(address: Address, idle: Connection[]) {
    this.#idle = idle;
    const socket: Bun.SocketHandler<undefined> = {
      open: (opened) => {
        this.#socket = opened;
        if (this.#isOver) opened.terminate();
        else this.#flush();
      },
      data: (_, data) => this.#take(data),
      drain: () => this.#flush(),
      close: () => this.fail(new Error("the connection was closed")),
      error: (_, error) => this.fail(error),
      connectError: (_, error) => this.fail(error),
    };
    const connecting =
      "unix" in address
        ? Bun.connect<undefined>({ ...address, socket })
        : Bun.connect<undefined>({ ...address, socket });
    connecting.catch((error: unknown) => this.fail(error));
  }

  exchange(request: string, exchange: Exchange): void {
    if (this.#isOver) {
      // A unix socket that is not there fails before the constructor returns.
      exchange.reject(this.#error);
      return;
    }
    this.#exchange = exchange;
    if (this.#socket) {
      const written = this.#socket.write(request);
      // The usual case: all of it went into the socket's buffer.
      if (written >= request.length && written === Buffer.byteLength(request)) return;
      this.#unsent = Buffer.from(request).subarray(Math.max(0, written));
    } else this.#unsent = Buffer.from(request);
  }

  fail(error: unknown): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#error = error;
    const place = this.#idle.indexOf(this);
    if (place >= 0) this.#idle.splice(place, 1);
    this.#socket?.terminate();
    this.#exchange?.reject(error);
    this.#exchange = undefined;
  }

  #flush(): void {
    if (!this.#unsent || !this.#socket) return;
    const written = Math.max(0, this.#socket.write(this.#unsent));
    this.#unsent = written >= this.#unsent.length ? undefined : this.#unsent.subarray(written);
  }

  #take(data: Buffer): void {
    this.#received = this.#received ? Buffer.concat([this.#received, data]) : data;
    if (!this.#exchange) {
      this.fail(new Error("an answer that nobody asked for"));
      return;
    }
    try {
      const response = parse(this.#received);
      if (response) this.#finish(response);
    } catch (error) {
      this.fail(error);
    }
  }

  #finish(response: Response): void {
    const { resolve } = this.#exchange!;
    this.#exchange = undefined;
    this.#received = undefined;
    if (response.headers.get("connection") === "close" || this.#idle.length >= IDLE_MAX) this.fail(undefined);
    else this.#idle.push(this);
    resolve(response);
  }
}

/** The response when all of it is there. Throws when it is none, or too long. */
function parse(received: Buffer): Response | undefined {
  const headEnd = received.indexOf(HEAD_END);
  if (headEnd < 0) {
    if (received.length > HEAD_BYTES_MAX) throw new Error("the head of an answer is too long");
    return undefined;
  }
  const [statusLine, ...lines] = received.toString("latin1", 0, headEnd).split("\r\n");
  const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(statusLine!)?.[1]);
  if (!status) throw new Error("the answer is not HTTP/1.1");
  const headers = new Headers();
  for (const line of lines) {
    const colon = line.indexOf(":");
    headers.append(line.slice(0, colon), line.slice(colon + 1).trim());
  }
  const start = headEnd + HEAD_END.length;
  const body =
    headers.get("transfer-encoding") === "chunked"
      ? readChunks(received, start)
      : readLength(received, start, Number(headers.get("content-length") ?? 0));
  return body === undefined ? undefined : new Response(body, { status, headers });
}

function readLength(received: Buffer, start: number, length: number): string | undefined {
  if (!(length <= BODY_BYTES_MAX)) throw new Error("the body of an answer is too long");
  return received.length < start + length ? undefined : received.toString("utf8", start, start + length);
}

function readChunks(received: Buffer, start: number): string | undefined {
  const chunks: Buffer[] = [];
  for (let at = start; ; ) {
    const lineEnd = received.indexOf(LINE_END, at);
    if (lineEnd < 0) return undefined;
    const length = Number.parseInt(received.toString("latin1", at, lineEnd), 16);
    if (!(length <= BODY_BYTES_MAX)) throw new Error("a chunk of an answer is too long");
    const chunkStart = lineEnd + LINE_END.length;
    if (received.length < chunkStart + length + LINE_END.length) return undefined;
    if (length === 0) return Buffer.concat(chunks).toString("utf8");
    chunks.push(received.subarray(chunkStart, chunkStart + length));
    at = chunkStart + length + LINE_END.length;
  }
}

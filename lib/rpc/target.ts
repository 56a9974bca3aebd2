/**
 * One instance that calls may go to: how it is reached, how much is under way there, and its breaker.
 *
 *   closed ──failure──► open (50 ms, 100 ms, … 2 s) ──time──► half-open: one request ──ok──► closed
 *                        ▲                                        └──failure──┘
 *
 * A lost or refused connection opens it at once: the first wait is shorter than a restart. A deadline that passed may be one
 * slow method, so it takes three in a row.
 */

import { hc } from "hono/client";
import { type Backoff, backoffMs } from "../clock.ts";
import type { ErrorBody } from "../errors.ts";
import { reach } from "./listen.ts";
import type { Instance } from "./registry.ts";
import type { RpcApp } from "./server.ts";
import type { Tokens } from "./token.ts";
import { DEADLINE_HEADER, REFUSED_HEADER, type Refusal, TRACE_HEADER } from "./wire.ts";

const BREAKER_OPEN: Backoff = { firstMs: 50, maxMs: 2_000, jitter: 0.2 };
const BREAKER_TIMEOUTS = 3;

export interface TargetRequest {
  readonly service: string;
  readonly method: string;
  /** JSON. */
  readonly body: string;
  readonly remainingMs: number;
  readonly traceparent: string | undefined;
  readonly signal: AbortSignal;
}

export type TargetReply =
  | { readonly kind: "answer"; readonly value: unknown }
  | { readonly kind: "error"; readonly error: ErrorBody }
  /** Nothing was executed. */
  | { readonly kind: "refused"; readonly reason: Refusal; readonly error: ErrorBody };

type Post = (
  args: undefined,
  options: { readonly headers: Record<string, string>; readonly init: RequestInit },
) => Promise<Response>;

export class Target {
  /** Calls queued for it and under way. */
  pending = 0;
  pendingLength = 0;
  /** Requests under way, to be aborted when the instance turns out to be dead. */
  readonly requests = new Set<AbortController>();
  isDraining: boolean;
  readonly hash: number;
  private failures = 0;
  private timeouts = 0;
  private openUntil = 0;
  private isProbing = false;
  /** Resolved once: hc builds its path by proxies, which costs more than the rest of a call. */
  private readonly posts = new Map<string, Post>();
  private readonly api: Record<string, Record<string, { readonly $post: Post }>>;

  constructor(
    readonly instance: Instance,
    private readonly tokens: Tokens,
    fetchLocal?: (request: Request) => Response | Promise<Response>,
  ) {
    this.isDraining = instance.draining;
    this.hash = hashOf(`${instance.name}/${instance.incarnation}`);
    const way = fetchLocal ? inProcess(fetchLocal) : reach(instance.address);
    // The app's route has parameters; with the names in place of them hc has no URL to rewrite at each call.
    this.api = hc<RpcApp>(way.url, { fetch: way.fetch }).rpc as unknown as typeof this.api;
  }

  /** May a request be sent now? A half-open breaker lets one through at a time. */
  isAvailable(now: number): boolean {
    if (this.isDraining) return false;
    if (this.failures === 0) return true;
    return now >= this.openUntil && !this.isProbing;
  }

  /** A call goes here. While the breaker is half-open it is the only one until its request ends. */
  taken(): void {
    if (this.failures > 0) this.isProbing = true;
  }

  /** Rejects when the connection failed; see mayHaveRun. */
  async send(request: TargetRequest): Promise<TargetReply> {
    const token = this.tokens.current() ?? (await this.tokens.issue());
    const headers: Record<string, string> = {
      "content-type": "application/json",
      authorization: `Bearer ${token}`,
      [DEADLINE_HEADER]: String(Math.ceil(request.remainingMs)),
    };
    if (request.traceparent !== undefined) headers[TRACE_HEADER] = request.traceparent;
    let post = this.posts.get(request.method);
    if (!post) {
      post = this.api[request.service]![request.method]!.$post;
      this.posts.set(request.method, post);
    }
    const response = await post(undefined, { headers, init: { body: request.body, signal: request.signal } });
    // An answer that is not JSON is not ours: it counts as a broken connection.
    const value: unknown = await response.json();
    if (response.status !== 200 && !isErrorBody(value))
      throw new Error(`an answer ${response.status} that is not ours`);
    this.succeeded();
    if (response.status === 200) return { kind: "answer", value };
    const refused = response.headers.get(REFUSED_HEADER) as Refusal | null;
    if (refused === "draining") this.isDraining = true;
    const error = value as ErrorBody;
    return refused === null ? { kind: "error", error } : { kind: "refused", reason: refused, error };
  }

  failed(): void {
    this.failures += 1;
    this.isProbing = false;
    this.openUntil = performance.now() + backoffMs(this.failures, BREAKER_OPEN);
  }

  /** Every call of a request passed its deadline. */
  timedOut(): void {
    this.timeouts += 1;
    if (this.timeouts >= BREAKER_TIMEOUTS || this.failures > 0) this.failed();
    this.isProbing = false;
  }

  private succeeded(): void {
    this.failures = 0;
    this.timeouts = 0;
    this.isProbing = false;
  }
}

function isErrorBody(value: unknown): value is ErrorBody {
  return typeof value === "object" && value !== null && typeof (value as { code?: unknown }).code === "string";
}

/** Errors that arise before a byte of the request has left: the call was certainly not executed. */
const NOT_SENT = new Set(["ECONNREFUSED", "ConnectionRefused", "ENOENT", "ENOTFOUND", "EACCES", "FailedToOpenSocket"]);

/** Whether a request that failed like this may have been executed. */
export function mayHaveRun(error: unknown): boolean {
  return !NOT_SENT.has((error as { code?: string }).code ?? "");
}

/** FNV-1a; only ever compared within one process. */
export function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash;
}

/** The weight of a key at a target (rendezvous hashing): the highest wins, so a target that goes moves only its own keys. */
export function weightOf(keyHash: number, targetHash: number): number {
  let hash = Math.imul(keyHash ^ targetHash, 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

function inProcess(fetchLocal: (request: Request) => Response | Promise<Response>) {
  const call = async (url: string | URL | Request, init?: RequestInit) => fetchLocal(new Request(url.toString(), init));
  return { url: "http://localhost", fetch: Object.assign(call, { preconnect: fetch.preconnect }) };
}

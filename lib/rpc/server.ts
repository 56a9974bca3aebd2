/**
 * The served side of a contract: a Hono app of Web-standard parts. It verifies the caller's token and the layer table, refuses
 * what it will not execute (draining, overloaded, past the deadline) so that the caller may go elsewhere, parses inputs with
 * the contract's schemas, and answers each item of a batch by itself.
 */

import { type Context, Hono } from "hono";
import * as v from "valibot";
import { AppError, type ErrorCode, type Issue, toErrorBody } from "../errors.ts";
import type { Log } from "../observability/index.ts";
import type { CallContext, Contract, Handlers, MethodContract, Outcome } from "./contract.ts";
import { assertMayCall } from "./layers.ts";
import type { Tokens } from "./token.ts";
import {
  BATCH_CALLS_MAX,
  type BatchItem,
  DEADLINE_HEADER,
  REFUSED_HEADER,
  type Refusal,
  TRACE_HEADER,
} from "./wire.ts";

/** Requests under way; a caller has at most 32 per method, so only many callers of a stuck handler come here. */
const REQUESTS_MAX = 1_024;
const OVERLOADED_RETRY_MS = 250;
const JSON_HEADERS = { "content-type": "application/json" };

type SingleHandler = (input: unknown, context: CallContext) => Promise<unknown>;
type BatchHandler = (inputs: readonly unknown[], context: CallContext) => Promise<readonly Outcome<unknown>[]>;

export interface RpcServer {
  readonly app: RpcApp;
  /** Requests under way. */
  inFlight(): number;
  /** From now on every call is refused. Resolves when those under way have ended or `signal` aborts. */
  drain(signal: AbortSignal): Promise<void>;
  isDraining(): boolean;
}
export type RpcApp = ReturnType<typeof createApp>;

export function createRpcServer<C extends Contract>(
  contract: C,
  handlers: Handlers<C>,
  tokens: Tokens,
  log: Log,
): RpcServer {
  let inFlight = 0;
  let isDraining = false;
  let onIdle: () => void = () => undefined;
  const methods = new Map(Object.entries(contract.methods));
  const single = handlers as unknown as Record<string, SingleHandler>;
  const batch = handlers as unknown as Record<string, BatchHandler>;

  const app = createApp(async (c) => {
    const authorization = c.req.header("authorization") ?? "";
    const token = authorization.startsWith("Bearer ") ? authorization.slice(7) : "";
    let context: CallContext;
    try {
      const caller = tokens.known(token) ?? (await tokens.verify(token));
      assertMayCall(caller.role, contract.service);
      const traceparent = c.req.header(TRACE_HEADER);
      context = { caller: caller.role, ...(traceparent === undefined ? {} : { traceparent }) };
    } catch (error) {
      return refuse("denied", error);
    }
    const name = c.req.param("method");
    const method = methods.get(name);
    if (!method || c.req.param("service") !== contract.service) {
      return refuse("unreadable", new AppError("METHOD_NOT_FOUND", `${contract.service} has no method ${name}`));
    }
    if (isDraining) return refuse("draining", overloaded(`${contract.service} is stopping`));
    if (inFlight >= REQUESTS_MAX) return refuse("overloaded", overloaded(`${contract.service} is at its limit`));
    const remainingMs = Number(c.req.header(DEADLINE_HEADER) ?? Number.NaN);
    if (!(remainingMs > 0)) return refuse("expired", new AppError("DEADLINE_EXCEEDED"));
    inFlight += 1;
    try {
      return await execute(c, method, name, context);
    } finally {
      inFlight -= 1;
      if (inFlight === 0) onIdle();
    }
  });

  const execute = async (c: Context, method: MethodContract, name: string, context: CallContext): Promise<Response> => {
    let body: unknown;
    try {
      body = await c.req.json();
    } catch (error) {
      return refuse("unreadable", new AppError("PARSE_ERROR", undefined, { cause: error }));
    }
    if (!Array.isArray(body)) return executeOne(method, name, body, context);
    if (!method.batchable) return refuse("unreadable", new AppError("INVALID", `${name} takes no batch`));
    if (body.length > BATCH_CALLS_MAX) {
      return refuse("unreadable", new AppError("TOO_LARGE", `a batch has at most ${BATCH_CALLS_MAX} calls`));
    }
    return answer(await executeBatch(method, name, body, context));
  };

  const executeOne = async (
    method: MethodContract,
    name: string,
    body: unknown,
    context: CallContext,
  ): Promise<Response> => {
    try {
      const input = v.safeParse(method.input, body);
      if (!input.success) throw invalid(input.issues);
      if (!method.batchable) {
        const value = await single[name]!(input.output, context);
        return answer(checked(method, name, value));
      }
      const [outcome] = await batch[name]!([input.output], context);
      if (!outcome?.ok) throw outcome?.error;
      return answer(checked(method, name, outcome.value));
    } catch (error) {
      reportUnexpected(name, error);
      const errorBody = toErrorBody(error);
      return new Response(JSON.stringify(errorBody), { status: statusOf(error), headers: JSON_HEADERS });
    }
  };

  const executeBatch = async (
    method: MethodContract,
    name: string,
    bodies: readonly unknown[],
    context: CallContext,
  ): Promise<readonly BatchItem[]> => {
    const items = new Array<BatchItem>(bodies.length);
    const inputs: unknown[] = [];
    const places: number[] = [];
    for (let i = 0; i < bodies.length; i++) {
      const input = v.safeParse(method.input, bodies[i]);
      if (input.success) {
        inputs.push(input.output);
        places.push(i);
      } else items[i] = { error: toErrorBody(invalid(input.issues)) };
    }
    let outcomes: readonly Outcome<unknown>[];
    try {
      outcomes = inputs.length === 0 ? [] : await batch[name]!(inputs, context);
    } catch (error) {
      outcomes = inputs.map(() => ({ ok: false, error }));
    }
    let isOutputChecked = false;
    for (let i = 0; i < inputs.length; i++) {
      const outcome: Outcome<unknown> = outcomes[i] ?? { ok: false, error: new Error(`${name} left item ${i} open`) };
      try {
        if (!outcome.ok) throw outcome.error;
        // Checking every output costs as much as parsing every input; the types hold for the rest, so one a batch will do.
        items[places[i]!] = { ok: (isOutputChecked ? outcome.value : checked(method, name, outcome.value)) ?? null };
        isOutputChecked = true;
      } catch (error) {
        reportUnexpected(name, error);
        items[places[i]!] = { error: toErrorBody(error) };
      }
    }
    return items;
  };

  /** What is not an AppError is a fault of ours: the caller sees INTERNAL, the log the rest. */
  const reportUnexpected = (name: string, error: unknown) => {
    if (error instanceof AppError && error.code !== "INTERNAL") return;
    log.error({ service: contract.service, method: name, error }, "rpc handler failed");
  };

  return {
    app,
    inFlight: () => inFlight,
    isDraining: () => isDraining,
    drain(signal) {
      isDraining = true;
      if (inFlight === 0 || signal.aborted) return Promise.resolve();
      return new Promise((resolve) => {
        onIdle = resolve;
        signal.addEventListener("abort", () => resolve(), { once: true });
      });
    },
  };
}

/** Its type is what `hc` speaks; inputs and outputs are the contract's. */
function createApp(handle: (c: Context<object, "/rpc/:service/:method">) => Promise<Response>) {
  return new Hono().post("/rpc/:service/:method", handle);
}

function answer(value: unknown): Response {
  return new Response(JSON.stringify(value ?? null), { headers: JSON_HEADERS });
}

function refuse(reason: Refusal, error: unknown): Response {
  const headers = { ...JSON_HEADERS, [REFUSED_HEADER]: reason };
  return new Response(JSON.stringify(toErrorBody(error)), { status: statusOf(error), headers });
}

function statusOf(error: unknown): number {
  return error instanceof AppError ? error.status : 500;
}

function overloaded(detail: string): AppError {
  return new AppError("OVERLOADED", detail, { retryAfterMs: OVERLOADED_RETRY_MS });
}

function invalid(found: readonly v.BaseIssue<unknown>[]): AppError {
  const issues: Issue[] = found.map((issue) => ({ path: v.getDotPath(issue) ?? "", message: issue.message }));
  const code: ErrorCode = "INVALID";
  return new AppError(code, undefined, { issues });
}

/** Throws when the handler's output is not what the contract says. */
function checked(method: MethodContract, name: string, value: unknown): unknown {
  const output = v.safeParse(method.output, value);
  if (output.success) return output.output;
  const where = output.issues.map((issue) => `${v.getDotPath(issue) ?? ""} ${issue.message}`).join("; ");
  throw new AppError("INTERNAL", undefined, { cause: new Error(`${name} answered against its contract: ${where}`) });
}

/**
 * What a contract is and what follows from it: the typed client and the shape of the handlers. A contract is a plain object
 * (lib/im/contract.ts, lib/archive/contract.ts); nothing here runs.
 */

import type * as v from "valibot";

export interface MethodContract {
  readonly input: v.GenericSchema;
  readonly output: v.GenericSchema;
  /** The same call may be sent again: the second run changes nothing and answers the same. Only such calls are retried. */
  readonly idempotent: boolean;
  /** Calls to it travel together; its handler takes a list and answers each item. */
  readonly batchable?: boolean;
  /** Calls of one key go to one instance while it lives, in the order they were made. */
  affinity?(input: never): string;
  /** Default CALL_TIMEOUT_MS. */
  readonly timeoutMs?: number;
}

export interface Contract {
  /** The role that serves it. */
  readonly service: string;
  readonly methods: Readonly<Record<string, MethodContract>>;
}

/** Time for a call, with its retries, unless the contract or the caller says otherwise. */
export const CALL_TIMEOUT_MS = 5_000;

export interface CallOptions {
  /** The caller's own deadline for this call. */
  readonly timeoutMs?: number;
  /** W3C trace context, passed through. */
  readonly traceparent?: string;
}

type MethodInput<M extends MethodContract> = v.InferInput<M["input"]>;
type MethodOutput<M extends MethodContract> = v.InferOutput<M["output"]>;

/**
 * Every method as a function. It rejects with an AppError only: what the handler threw; INVALID with issues; OVERLOADED when
 * it was not executed; UNKNOWN_OUTCOME when it may have been executed; DEADLINE_EXCEEDED when an idempotent call was under way
 * at its deadline, which leaves the outcome open too.
 */
export type Client<C extends Contract> = {
  readonly [M in keyof C["methods"]]: (
    input: MethodInput<C["methods"][M]>,
    options?: CallOptions,
  ) => Promise<MethodOutput<C["methods"][M]>>;
};

/** The answer to one item of a batch. `error` is an AppError, or anything else, which the caller sees as INTERNAL. */
export type Outcome<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: unknown };

export interface CallContext {
  /** The role that calls, from its signed token. */
  readonly caller: string;
  readonly traceparent?: string;
}

/** Method -> handler. Inputs are parsed. A batchable method's handler answers item i of the list at place i. */
export type Handlers<C extends Contract> = {
  readonly [M in keyof C["methods"]]: C["methods"][M] extends { readonly batchable: true }
    ? (
        inputs: readonly v.InferOutput<C["methods"][M]["input"]>[],
        context: CallContext,
      ) => Promise<readonly Outcome<v.InferInput<C["methods"][M]["output"]>>[]>
    : (
        input: v.InferOutput<C["methods"][M]["input"]>,
        context: CallContext,
      ) => Promise<v.InferInput<C["methods"][M]["output"]>>;
};

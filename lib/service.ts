/**
 * The one lifecycle of everything that runs. A service starts once and stops once; both are safe to call twice. `runServices`
 * starts a list in order, waits for a signal, and stops it in reverse: softly (finish what is in hand) until the deadline,
 * then hard.
 */

import type { Clock } from "./clock.ts";
import { AppError } from "./errors.ts";

export interface Service {
  readonly name: string;
  /** Resolves when the service does its work; rejects when it cannot. */
  start(): Promise<void>;
  /** Finishes what is in hand, then releases everything. When `signal` aborts: at once, leaving work to its lease. */
  stop(signal: AbortSignal): Promise<void>;
}

/** Workers finish their hand-outs within this; then sockets are cut and leases left to expire (design.md §10: drain 10 s). */
export const SHUTDOWN_MS = 10_000;

/** Wraps start and stop so that a second call of either joins the first, and a stop before start does nothing. */
export function createService(
  name: string,
  start: () => Promise<void>,
  stop: (signal: AbortSignal) => Promise<void>,
): Service {
  let started: Promise<void> | undefined;
  let stopped: Promise<void> | undefined;
  return {
    name,
    start() {
      if (stopped) return Promise.reject(new AppError("OVERLOADED", `${name} was stopped and does not start again`));
      started ??= start();
      return started;
    },
    stop(signal) {
      if (!started) return Promise.resolve();
      const begun = started;
      stopped ??= begun.then(
        () => stop(signal),
        () => stop(signal),
      );
      return stopped;
    },
  };
}

interface Repetition {
  readonly clock: Clock;
  /** Between the end of one and the next. */
  readonly everyMs: number;
  /** `signal`: the service stops. */
  readonly act: (signal: AbortSignal) => Promise<unknown>;
  /** Hears of the first of several failures in a row; it is tried again all the same. */
  readonly report: (error: unknown) => void;
}

/** Does something again and again, beginning at once. A stop waits for the one under way. */
export function createRepeating(name: string, { clock, everyMs, act, report }: Repetition): Service {
  const stopping = new AbortController();
  let running: Promise<void> = Promise.resolve();
  async function repeat(): Promise<void> {
    let isFailing = false;
    while (!stopping.signal.aborted) {
      try {
        await act(stopping.signal);
        isFailing = false;
      } catch (error) {
        if (!isFailing) report(error);
        isFailing = true;
      }
      await clock.sleep(everyMs, stopping.signal);
    }
  }
  return createService(
    name,
    async () => {
      running = repeat();
    },
    async () => {
      stopping.abort();
      await running;
    },
  );
}

/** Resolves when `signal` aborts. Each call leaves a listener: not for loops. */
export function whenAborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}

export interface RunningServices {
  /** Stops all in reverse order; errors of one do not keep the others from stopping and are thrown together at the end. */
  stop(options?: { shutdownMs?: number }): Promise<void>;
}

/** Starts services in order. When one fails, those already started are stopped again and the error is thrown. */
export async function startServices(services: readonly Service[]): Promise<RunningServices> {
  const started: Service[] = [];
  const stop = async ({ shutdownMs = SHUTDOWN_MS } = {}) => {
    const deadline = AbortSignal.timeout(shutdownMs);
    const errors: unknown[] = [];
    for (const service of started.splice(0).reverse()) {
      try {
        await service.stop(deadline);
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw new AggregateError(errors, "some services did not stop cleanly");
  };
  for (const service of services) {
    started.push(service);
    try {
      await service.start();
    } catch (error) {
      await stop().catch((cause: unknown) => {
        throw new AggregateError([error, cause], `${service.name} did not start, and the stop failed too`);
      });
      throw error;
    }
  }
  return { stop };
}

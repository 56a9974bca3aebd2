/** What a load process is told and what it answers, over Bun's IPC. Plain data: both sides compile against this file. */

/** One sender and its conversation; `receivers` other connections get each message. Sockets are indexes of `connect`. */
export interface Lane {
  readonly sender: number;
  readonly conversation: string;
  readonly receivers: number;
}

export interface Load {
  /** Distinguishes the client ids of this run from those of any other. */
  readonly run: string;
  readonly lanes: readonly Lane[];
  readonly textBytes: number;
  /** Closed loop: so many messages per lane are under way; one is done when it is acked and at every receiver. */
  readonly outstanding?: number;
  /** Open loop: messages per second over all lanes, due on a grid of 1 ms, sent whether or not earlier ones are done. */
  readonly perSecond?: number;
  /** Sent but not counted: the time before the measurement. */
  readonly warmMs: number;
  readonly measureMs: number;
}

export interface Percentiles {
  /** Values behind the percentiles; 0: there is none. */
  readonly count: number;
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
  readonly max: number;
}

export interface LoadResult {
  /** From start to end, warming up included. */
  readonly sentInAll: number;
  /** Within the measured time. */
  readonly sent: number;
  readonly acked: number;
  /** Notifications at receivers. */
  readonly delivered: number;
  readonly seconds: number;
  /** From the due time (open loop) or the write (closed loop), in ms, of messages due within the measured time. */
  readonly ackMs: Percentiles;
  readonly deliveryMs: Percentiles;
  readonly refused: Readonly<Record<string, number>>;
  /** Messages still not acked or not delivered everywhere when the run was given up. 0 in health. */
  readonly unfinished: number;
  /** The latest of all, from the end of the load to the last delivery. */
  readonly drainMs: number;
}

export type Command =
  | { readonly type: "connect"; readonly sockets: readonly { readonly url: string; readonly token: string }[] }
  | { readonly type: "run"; readonly load: Load }
  | { readonly type: "disconnect" };

export type Event =
  | { readonly type: "connected"; readonly count: number; readonly seconds: number }
  /** The measured time begins or ends now: the moment to read the servers' CPU time. */
  | { readonly type: "measuring" | "measured" }
  | { readonly type: "done"; readonly result: LoadResult }
  | { readonly type: "disconnected" }
  | { readonly type: "failed"; readonly reason: string };

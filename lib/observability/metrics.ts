/**
 * Every metric of Skein, in one table, with its help text. A metric that no invariant or decision reads is not added.
 * Conversation, user and message ids are never labels: their number is unbounded.
 */

import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";

/** Seconds; fine around the goals of 1.5 ms and 6 ms, coarse beyond a second. */
const LATENCY_BUCKETS = [0.0005, 0.001, 0.0015, 0.002, 0.003, 0.006, 0.012, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

export interface Metrics {
  readonly registry: Registry;
  readonly sends: Counter<"outcome">;
  readonly commitBatch: Histogram;
  readonly commitSeconds: Histogram;
  readonly published: Counter<"topic">;
  readonly delivered: Counter<"topic" | "group">;
  readonly acked: Counter<"topic" | "group">;
  readonly retried: Counter<"topic" | "group">;
  readonly buried: Counter<"topic" | "group">;
  readonly deadLettersEvicted: Counter<"topic" | "group">;
  readonly lostByTrim: Counter<"topic" | "group">;
  readonly redriven: Counter<"topic" | "group">;
  readonly expired: Counter<"topic" | "group">;
  readonly publishRefused: Counter<"topic">;
  readonly delayedLateness: Histogram;
  readonly delayed: Counter<"outcome">;
  readonly halves: Counter<"outcome">;
  readonly checks: Counter<"answer">;
  readonly webhookCalls: Counter<"outcome">;
  readonly hookCalls: Counter<"outcome">;
  readonly hookSeconds: Histogram<never>;
  readonly pushes: Counter<"kind" | "outcome">;
  readonly leasesLost: Counter<"topic" | "group">;
  readonly takeovers: Counter<"topic" | "group">;
  readonly rpcCalls: Counter<"service" | "method" | "outcome">;
  readonly rpcSeconds: Histogram<"service" | "method">;
  readonly connections: Gauge;
  readonly frames: Counter<"direction">;
  readonly outboxLagging: Counter;
  readonly outboxClosed: Counter;
  readonly resyncs: Counter<"reason">;
  readonly deliveries: Counter;
  readonly archived: Counter;
  readonly archiveClashes: Counter;
  readonly archiveGaps: Counter;
  readonly redisErrors: Counter<"class">;
}

/** Where groups stand. */
export interface GroupGauges {
  readonly registry: Registry;
  readonly lag: Gauge<"topic" | "group">;
  readonly oldestPendingSeconds: Gauge<"topic" | "group">;
  readonly parkedKeys: Gauge<"topic" | "group">;
  readonly sideMessages: Gauge<"topic" | "group">;
}

const GROUP = ["topic", "group"] as const;

/** One registry per process: roles that share a process share it. `unit` names the process: a label of all its series. */
export function createMetrics(unit?: string): Metrics {
  const registry = new Registry();
  if (unit !== undefined) registry.setDefaultLabels({ unit });
  collectDefaultMetrics({ register: registry, prefix: "skein_" });
  const registers = [registry];
  const counter = <L extends string = never>(name: string, help: string, labelNames: readonly L[] = []) =>
    new Counter({ name, help, labelNames: [...labelNames], registers });
  const gauge = <L extends string = never>(name: string, help: string, labelNames: readonly L[] = []) =>
    new Gauge({ name, help, labelNames: [...labelNames], registers });
  const seconds = <L extends string = never>(name: string, help: string, labelNames: readonly L[] = []) =>
    new Histogram({ name, help, labelNames: [...labelNames], buckets: LATENCY_BUCKETS, registers });
  return {
    registry,
    sends: counter("im_messages_sends_total", "Sends by outcome: ok, duplicate, or an error code.", ["outcome"]),
    commitBatch: new Histogram({
      name: "im_messages_commit_batch_sends",
      help: "Sends per commit script.",
      buckets: [1, 2, 4, 8, 16, 32, 64, 128],
      registers,
    }),
    commitSeconds: seconds(
      "im_messages_commit_seconds",
      "Time from a commit script's call to its reply, with the fsync.",
    ),
    published: counter("im_mq_published_total", "Messages appended by publish.", ["topic"]),
    delivered: counter("im_mq_delivered_total", "Deliveries handed to a handler.", GROUP),
    acked: counter("im_mq_acked_total", "Deliveries finished by their handler.", GROUP),
    retried: counter("im_mq_retried_total", "Deliveries whose handler failed and that will run again.", GROUP),
    buried: counter("im_mq_buried_total", "Messages moved to dead letters.", GROUP),
    deadLettersEvicted: counter("im_mq_dead_letters_evicted_total", "Dead letters dropped by their bound.", GROUP),
    lostByTrim: counter("im_mq_lost_by_trim_total", "Entries trimmed before the group read them. 0 in health.", GROUP),
    redriven: counter("im_mq_redriven_total", "Dead letters brought back to their group.", GROUP),
    expired: counter("im_mq_expired_total", "Messages dropped because their expireAt had passed.", GROUP),
    publishRefused: counter("im_mq_publish_refused_total", "Messages refused because the topic was full.", ["topic"]),
    delayedLateness: new Histogram({
      name: "im_mq_delayed_lateness_seconds",
      help: "Time from a delayed message's due time to its append, both by Redis TIME.",
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 12, 30, 60],
      registers,
    }),
    delayed: counter("im_mq_delayed_total", "Delayed messages by outcome: fired, cancelled, dropped, moved.", [
      "outcome",
    ]),
    halves: counter(
      "im_mq_halves_total",
      "Half messages by outcome: prepared, committed, rolled_back, expired, resumed, dropped.",
      ["outcome"],
    ),
    checks: counter("im_mq_checks_total", "Checks of half messages by answer: commit, rollback, unknown, none.", [
      "answer",
    ]),
    webhookCalls: counter("im_webhook_calls_total", "Webhook deliveries by outcome: ok, retry, gone, failed.", [
      "outcome",
    ]),
    hookCalls: counter("im_hook_calls_total", "Questions to the before-send hook: allow, replace, refuse, failed.", [
      "outcome",
    ]),
    hookSeconds: seconds("im_hook_call_seconds", "Time until the before-send hook gave its verdict, or none.", []),
    pushes: counter(
      "im_push_devices_total",
      "Pushes to devices by provider and outcome: sent, gone, later, refused, expired (our credentials were), quiet (no longer wanted).",
      ["kind", "outcome"],
    ),
    leasesLost: counter("im_mq_leases_lost_total", "Commits refused because another member holds the lease.", GROUP),
    takeovers: counter("im_mq_takeovers_total", "Leases taken from a member that let them expire.", GROUP),
    rpcCalls: counter("im_rpc_calls_total", "Calls by outcome: ok or an error code.", ["service", "method", "outcome"]),
    rpcSeconds: seconds("im_rpc_call_seconds", "Time of one call as the caller sees it.", ["service", "method"]),
    connections: gauge("im_gateway_connections", "Open WebSocket connections."),
    frames: counter("im_gateway_frames_total", "WebSocket frames, in and out.", ["direction"]),
    outboxLagging: counter("im_gateway_outbox_lagging_total", "Connections that were marked lagging."),
    outboxClosed: counter("im_gateway_outbox_closed_total", "Connections closed because they were too slow."),
    resyncs: counter("im_gateway_resyncs_total", "session.resync notifications by reason.", ["reason"]),
    deliveries: counter("im_delivery_frames_total", "Frames addressed to connections by the delivery group."),
    archived: counter("im_archive_entries_total", "Timeline entries written to the archive."),
    archiveClashes: counter(
      "im_archive_clashes_total",
      "Entries refused because another entry holds their place. 0 in health.",
    ),
    archiveGaps: counter("im_archive_gaps_total", "Writes to a timeline that lacks entries before them. 0 in health."),
    redisErrors: counter("im_redis_errors_total", "Redis errors by what the caller may conclude.", ["class"]),
  };
}

/**
 * Gauges of the whole installation, made anew each time it is measured: no process keeps a figure that another has measured since,
 * and of a group that is gone nothing is said.
 */
export function createGroupGauges(): GroupGauges {
  const registry = new Registry();
  const gauge = (name: string, help: string) =>
    new Gauge({ name, help, labelNames: [...GROUP], registers: [registry] });
  return {
    registry,
    lag: gauge("im_mq_lag_messages", "Entries that the group has not finished."),
    oldestPendingSeconds: gauge("im_mq_oldest_pending_seconds", "Age of the group's oldest unfinished message."),
    parkedKeys: gauge("im_mq_parked_keys", "Keys that wait for an operator's unpark."),
    sideMessages: gauge("im_mq_side_messages", "Messages held in the side queue behind a key that cannot go on."),
  };
}

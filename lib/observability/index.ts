/**
 * What a process says about itself: logs (log.ts), metrics (metrics.ts, exposition.ts) and readiness (health.ts).
 *
 *   const log = createLog({ role: "logic" }, config.logLevel);
 *   const metrics = createMetrics();
 *   metrics.sends.inc({ outcome: "ok" });
 */

export { EXPOSITION_CONTENT_TYPE, mergeExpositions } from "./exposition.ts";
export { type Check, type Readiness, readiness } from "./health.ts";
export { createLog, type Fields, type Log, type LogLevel, silentLog } from "./log.ts";
export { createGroupGauges, createMetrics, type GroupGauges, type Metrics } from "./metrics.ts";

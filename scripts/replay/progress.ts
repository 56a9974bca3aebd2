/** The progress bar of a replay: one line that rewrites itself, on a terminal only. */

const WIDTH = 30;
const EVERY_MS = 200;

export interface Progress {
  /** `done` of `total` of what `label` says. */
  show(label: string, done: number, total: number): void;
  /** Clears the line, for other output. */
  end(): void;
}

export function createProgress(stream: NodeJS.WriteStream): Progress {
  let lastMs = 0;
  let began = performance.now();
  let lastLabel = "";
  return {
    show(label, done, total) {
      const nowMs = performance.now();
      if (label !== lastLabel) [began, lastLabel] = [nowMs, label];
      else if (nowMs - lastMs < EVERY_MS && done < total) return;
      if (!stream.isTTY) return;
      lastMs = nowMs;
      const full = total === 0 ? WIDTH : Math.round((done / total) * WIDTH);
      const bar = `${"█".repeat(full)}${"░".repeat(WIDTH - full)}`;
      const rate = Math.round(done / Math.max(0.001, (nowMs - began) / 1_000));
      stream.write(`\r\u001b[K${bar} ${label} ${done}/${total}  ${rate}/s`);
    },
    end() {
      if (stream.isTTY) stream.write("\r\u001b[K");
    },
  };
}

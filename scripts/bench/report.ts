/** What a bench has found: figures with their goals, printed as they come and again as JSON at the end. */

export interface Figure {
  readonly section: string;
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  /** `reached` says on which side of the goal the figure must lie. */
  readonly goal?: { readonly value: number; readonly reached: "at least" | "at most"; readonly note?: string };
  /** What a reader needs beside the figure. */
  readonly note?: string;
}

export interface Report {
  readonly figures: readonly Figure[];
  section(title: string): void;
  add(figure: Omit<Figure, "section">): void;
  line(text: string): void;
}

const NAME_WIDTH = 46;
const VALUE_WIDTH = 16;

export function createReport(print: (line: string) => void): Report {
  const figures: Figure[] = [];
  let section = "";
  return {
    figures,
    section(title) {
      section = title;
      print(`\n${title}`);
    },
    add(given) {
      const figure = { section, ...given };
      figures.push(figure);
      const value = `${formatNumber(figure.value)} ${figure.unit}`.padStart(VALUE_WIDTH);
      const parts = [`  ${figure.name.padEnd(NAME_WIDTH)}${value}`];
      if (figure.goal) parts.push(formatGoal(figure));
      if (figure.note) parts.push(figure.note);
      print(parts.join("   "));
    },
    line: (text) => print(`  ${text}`),
  };
}

function formatGoal({ value, goal }: Figure): string {
  const { value: wanted, reached, note } = goal!;
  const isReached = reached === "at least" ? value >= wanted : value <= wanted;
  const sign = reached === "at least" ? "≥" : "≤";
  const ratio = value / wanted;
  return `goal ${sign} ${formatNumber(wanted)}${note ? ` (${note})` : ""}: ${formatNumber(ratio)} of it, ${isReached ? "reached" : "NOT reached"}`;
}

/** Three significant digits, thousands apart. */
export function formatNumber(value: number): string {
  if (!Number.isFinite(value)) return "-";
  if (Math.abs(value) >= 1_000)
    return Math.round(value)
      .toString()
      .replace(/\B(?=(\d{3})+$)/g, " ");
  return String(Number(value.toPrecision(3)));
}

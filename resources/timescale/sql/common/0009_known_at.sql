-- Two axes of time: a fact is known since `known_at`, and a version that was replaced stays in the revision table until when it
-- was known. Bars from before the stream count as known at their close, which is then all that `known_at` says.
ALTER TABLE md.candle ADD COLUMN known_at timestamptz;
UPDATE md.candle SET known_at = open_time + timeframe::interval;
ALTER TABLE md.candle ALTER COLUMN known_at SET NOT NULL;
CREATE TABLE md.candle_revision (LIKE md.candle, superseded_at timestamptz NOT NULL);
CREATE INDEX candle_revision_key ON md.candle_revision (symbol_id, timeframe, open_time);

ALTER TABLE md.indicator ADD COLUMN known_at timestamptz;
UPDATE md.indicator SET known_at = open_time + timeframe::interval;
ALTER TABLE md.indicator ALTER COLUMN known_at SET NOT NULL;
CREATE TABLE md.indicator_revision (LIKE md.indicator, superseded_at timestamptz NOT NULL);
CREATE INDEX indicator_revision_key ON md.indicator_revision (symbol_id, timeframe, open_time);

-- What perpetual contracts say beside their trades, in versions: a value that the exchange changes later is a row of its
-- own, known since its own moment. Open interest is in the base coin and its value in the quote coin, a rate is a fraction
-- of the notional for one funding interval, prices are in the quote coin. Unknown is null, never 0.
CREATE TABLE md.derivative (
    symbol_id           smallint NOT NULL REFERENCES md.symbol,
    kind                text NOT NULL,
    time                timestamptz NOT NULL,
    known_at            timestamptz NOT NULL,
    open_interest       float8,
    open_interest_value float8,
    funding_rate        float8,
    mark_price          float8,
    index_price         float8,
    PRIMARY KEY (symbol_id, time, kind, known_at),
    CONSTRAINT derivative_known_when_it_happened CHECK (known_at >= time),
    CONSTRAINT derivative_has_its_value CHECK (
        CASE kind WHEN 'open_interest' THEN open_interest WHEN 'funding' THEN funding_rate WHEN 'mark' THEN mark_price END
        IS NOT NULL
    ),
    -- NaN sorts above every number in PostgreSQL, so an upper bound refuses it together with Infinity.
    CONSTRAINT derivative_in_range CHECK (
        open_interest >= 0 AND open_interest < 'Infinity'
        AND open_interest_value >= 0 AND open_interest_value < 'Infinity'
        AND abs(funding_rate) < 1 AND mark_price > 0 AND mark_price < 'Infinity'
        AND index_price > 0 AND index_price < 'Infinity'
    )
);

-- What is held of one kind on one UTC day; see trading.market.derivative_coverage.
CREATE TABLE md.derivative_coverage (
    symbol_id      smallint NOT NULL REFERENCES md.symbol,
    kind           text NOT NULL CHECK (kind IN ('open_interest', 'funding', 'mark')),
    day            date NOT NULL,
    state          text NOT NULL CHECK (state IN ('available', 'degraded', 'pending', 'missing', 'empty')),
    n_values       integer NOT NULL CHECK (n_values >= 0),
    longest_gap_ms bigint,
    PRIMARY KEY (symbol_id, kind, day),
    CHECK ((n_values = 0) = (longest_gap_ms IS NULL))
);

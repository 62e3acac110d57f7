-- All columns order bids of one moment, so that the last one is the same on both sides.
SELECT auction, bidder, price, channel, url, date_time
FROM (
    SELECT *,
        row_number() OVER (
            PARTITION BY bidder, auction ORDER BY date_time DESC, price, channel, url, extra
        ) AS rank_number
    FROM bid
) AS ranked
WHERE rank_number <= 1

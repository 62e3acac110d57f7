-- All columns order equal prices, so that the ten are the same on both sides.
SELECT auction, bidder, price, channel, url, date_time, rank_number
FROM (
    SELECT *,
        row_number() OVER (
            PARTITION BY auction ORDER BY price DESC, bidder, channel, url, date_time, extra
        ) AS rank_number
    FROM bid
) AS ranked
WHERE rank_number <= 10
